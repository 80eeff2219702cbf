"""What safetensors files hold, by their headers alone. No torch, and never a pickle."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phaseline.errors import CheckpointError, UnreachableFileError

SUFFIX = ".safetensors"
SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
ITEM_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL"), 1),
}
"""Bytes per element of the types that can be read. Others are quantised formats."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_LONGEST_HEADER_BYTES = 100_000_000  # what the format allows
_CONVERT_FOLDER = (
    "Convert it once, where you trust it: AutoModelForCausalLM.from_pretrained(...)"
    ".save_pretrained(...) of transformers writes safetensors"
)
_CONVERT_FILE = (
    "Convert it once, where you trust it: torch.load(..., weights_only=True), then "
    "safetensors.torch.save_file"
)


class UnusableWeightsError(CheckpointError):
    """Weights at a path cannot be taken over.

    Attributes:
        problem: What was found there, completing "PATH ...".
        fix: What to do, a sentence.
    """

    def __init__(self, problem: str, fix: str) -> None:
        self.problem, self.fix = problem, fix
        super().__init__(f"The weights cannot be taken: {problem}. {fix}")


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file.

    Attributes:
        file: The file.
        dtype: In the format's words, as `BF16`.
        shape: Its shape.
        offset: Its first byte in the file.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def list_file(path: Path) -> dict[str, StoredTensor]:
    """Reads the header of one file.

    Raises:
        UnusableWeightsError: It is a pickle, no safetensors file, or not all of one.
    """
    if path.suffix in _PICKLES:
        raise UnusableWeightsError(
            f"is {path.name}, a pickle, which can run any code when it is loaded",
            f"{_CONVERT_FILE}.",
        )
    if path.suffix != SUFFIX:
        raise UnusableWeightsError(
            f"is {path.name}, a file of no known kind", f"Name a {SUFFIX} file, or a folder."
        )
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > _LONGEST_HEADER_BYTES:
                raise ValueError("its header has no end")
            header: dict[str, Any] = json.loads(file.read(size))
        num_bytes = path.stat().st_size
        header.pop("__metadata__", None)
        found = {name: _tensor(path, record, 8 + size) for name, record in header.items()}
        ends = [8 + size + record["data_offsets"][1] for record in header.values()]
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        struct.error,
    ) as error:
        UnreachableFileError.require_lasting(error, path)
        raise UnusableWeightsError(
            f"holds {path.name}, which is no safetensors file ({error})", "Get the file again."
        ) from error
    if max(ends, default=0) > num_bytes:
        raise UnusableWeightsError(
            f"holds {path.name}, which ends after {num_bytes} of {max(ends)} bytes",
            "Get the file again.",
        )
    return found


def list_folder(folder: Path) -> dict[str, StoredTensor]:
    """Reads the headers of a Hugging Face folder: one file, or several with an index.

    Raises:
        UnusableWeightsError: It holds no weights, or none that can be taken.
    """
    if (folder / SINGLE_FILE).is_file():
        return list_file(folder / SINGLE_FILE)
    if (folder / INDEX_FILE).is_file():
        return _list_shards(folder)
    files = sorted(path for path in folder.glob(f"*{SUFFIX}"))
    if len(files) == 1 and not files[0].name.startswith("adapter"):
        return list_file(files[0])
    if files and files[0].name.startswith("adapter"):
        raise UnusableWeightsError(
            f"holds an adapter ({files[0].name}) and no model",
            "Merge it into its model with peft, and name the folder of the merged model.",
        )
    if files:
        raise UnusableWeightsError(
            f"holds {len(files)} safetensors files, and no {INDEX_FILE} that says which belong "
            "together",
            "Add the index, or name one of the files.",
        )
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise UnusableWeightsError(
            f"holds pickles ({pickles[0]}), which can run any code when they are loaded, and no "
            "safetensors",
            f"{_CONVERT_FOLDER}.",
        )
    raise UnusableWeightsError(
        "is a folder without weights",
        "Name a Hugging Face folder with *.safetensors, SESSION#PHASE, or a checkpoint folder.",
    )


def _list_shards(folder: Path) -> dict[str, StoredTensor]:
    try:
        index: Mapping[str, str] = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))[
            "weight_map"
        ]
        names = sorted(set(index.values()))
        outside = [name for name in names if Path(name).name != name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        UnreachableFileError.require_lasting(error, folder / INDEX_FILE)
        raise UnusableWeightsError(
            f"holds {INDEX_FILE}, which is no index ({error})", "Get the file again."
        ) from error
    missing = [*outside, *(name for name in names if not (folder / name).is_file())]
    if missing:
        raise UnusableWeightsError(
            f"lacks {missing[0]}, which {INDEX_FILE} names", "Get the file, or the whole folder."
        )
    shards = {name: list_file(folder / name) for name in names}
    absent = sorted(name for name, file in index.items() if name not in shards[file])
    if absent:
        raise UnusableWeightsError(
            f"holds {index[absent[0]]} without {absent[0]}, which {INDEX_FILE} puts there",
            "Get the whole folder again.",
        )
    return {name: shards[file][name] for name, file in index.items()}


def _tensor(path: Path, record: Mapping[str, Any], data_start: int) -> StoredTensor:
    (begin, end), shape = record["data_offsets"], tuple(record["shape"])
    if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
        raise ValueError("its header holds places or sizes that are none")
    if not isinstance(record["dtype"], str) or begin > end:
        raise ValueError("its header contradicts itself")
    tensor = StoredTensor(path, record["dtype"], shape, data_start + begin)
    item_bytes = ITEM_BYTES.get(tensor.dtype)
    if item_bytes is not None and end - begin != tensor.numel * item_bytes:
        raise ValueError("its header contradicts itself")
    return tensor
