"""Taking weights from outside into an engine: a range at a time, on every rank its own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Protocol

import torch

from phaseline.checkpoint.foreign import ForeignWeights
from phaseline.checkpoint.reader import WEIGHT, CheckpointReader, persistent_buffers
from phaseline.checkpoint.tensor_files import ITEM_BYTES, StoredTensor, UnusableWeightsError
from phaseline.distributed.engines.base import Engine, whole_shape

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_FLOATING = ("F64", "F32", "F16", "BF16")
_BLOCK_ELEMENTS = 1 << 24
_MOST_LINES = 6


class WeightReader(Protocol):
    """Opened weights; parameters and buffers by the names that they have there."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Parameters, by every name that they have."""

    @property
    def buffers(self) -> Mapping[str, tuple[int, ...]]:
        """What may be a buffer. A format that does not tell them apart has all tensors here."""

    def stored_as(self, name: str) -> str:
        """The one name of a tensor that may have several."""

    def read(self, name: str, start: int, out: torch.Tensor) -> None:
        """Fills a flat tensor with elements of a parameter from `start` on. [numel]"""

    def read_buffers(self, module: torch.nn.Module) -> None:
        """Gives a module's persistent buffers their values."""


def open_weights(weights: ForeignWeights) -> AbstractContextManager[WeightReader]:
    """Opens weights for reading."""
    if weights.checkpoint is not None:
        return _CheckpointWeights(weights.checkpoint)
    return _TensorFiles(weights.tensors)


def match_names(reader: WeightReader, module: torch.nn.Module) -> dict[str, str]:
    """Finds every parameter's name in the weights, and refuses what does not fit.

    Tied parameters need one of their names. Buffers that a module computes itself, and what
    transformers declares to be left over, may be there.

    Args:
        reader: Opened weights.
        module: The bare model; its parameters may lie on the meta device, or in parts.

    Returns:
        By the names of `module.named_parameters()`.

    Raises:
        UnusableWeightsError: Naming what is missing, too many, or of another shape or type.
    """
    names = _names_of(module)
    buffers = {name: tuple(b.shape) for name, b in persistent_buffers(module).items()}
    found: dict[str, str] = {}
    problems: list[str] = []
    for name, parameter in module.named_parameters():
        there = [alias for alias in names[id(parameter)] if alias in reader.shapes]
        if not there:
            problems.append(f"{name} is missing")
            continue
        found[name] = there[0]
        shape = whole_shape(parameter)
        problems += [
            f"{alias} is {list(reader.shapes[alias])} and not {list(shape)}"
            for alias in there
            if reader.shapes[alias] != shape
        ]
    problems += _problems_of_buffers(reader, buffers)
    known = {alias for aliases in names.values() for alias in aliases} | buffers.keys()
    computed = {name for name, _ in module.named_buffers()}
    left = sorted((reader.shapes.keys() | reader.buffers.keys()) - known - computed)
    problems += [f"{name} is too many" for name in left if not _is_left_over(module, name)]
    if problems:
        raise _misfit(problems)
    for name in found.values():
        reader.read(name, 0, torch.empty(0))  # refuses types that are no weights
    _require_tied_alike(reader, module, names, found)
    return found


@torch.no_grad()
def fill_engine(reader: WeightReader, names: Mapping[str, str], engine: Engine) -> None:
    """Gives an engine the weights and buffers. **Ranks:** all.

    Every rank reads the ranges that it holds and nothing else.

    Args:
        reader: Opened weights.
        names: Of every parameter in them, as `match_names` found.
        engine: The engine, before its first step.
    """
    for fragment in engine.state_fragments():
        reader.read(names[fragment.name], fragment.start, fragment.weight)
    reader.read_buffers(engine.module)
    engine.refresh_weights()


class _TensorFiles:
    """Safetensors files, read by offset: a range of a matrix costs no more than the range."""

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._tensors = tensors
        self._files: dict[Path, BufferedReader] = {}
        self._stack = ExitStack()
        self.shapes = self.buffers = {name: t.shape for name, t in tensors.items()}

    def __enter__(self) -> WeightReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._files.clear()

    def stored_as(self, name: str) -> str:
        return name

    def read(self, name: str, start: int, out: torch.Tensor) -> None:
        tensor = self._tensors[name]
        if tensor.dtype not in _FLOATING:
            raise UnusableWeightsError(
                f"holds {name} as {tensor.dtype}, which no weight is trained in",
                "Name weights in F32, BF16, F16 or F64, not quantised ones.",
            )
        for first in range(0, out.numel(), _BLOCK_ELEMENTS):
            part = out.narrow(0, first, min(_BLOCK_ELEMENTS, out.numel() - first))
            part.copy_(self._block(tensor, start + first, part.numel()))

    def read_buffers(self, module: torch.nn.Module) -> None:
        for name, buffer in persistent_buffers(module).items():
            tensor = self._tensors[name]
            buffer.copy_(self._block(tensor, 0, tensor.numel).view(tensor.shape))

    def _block(self, tensor: StoredTensor, start: int, numel: int) -> torch.Tensor:
        dtype = _DTYPES.get(tensor.dtype)
        if dtype is None:
            raise UnusableWeightsError(
                f"holds tensors of the type {tensor.dtype}", "Name weights that can be trained."
            )
        if numel == 0:
            return torch.empty(0, dtype=dtype)
        file = self._files.get(tensor.file)
        if file is None:
            file = self._stack.enter_context(tensor.file.open("rb"))
            self._files[tensor.file] = file
        data = bytearray(numel * ITEM_BYTES[tensor.dtype])
        file.seek(tensor.offset + start * ITEM_BYTES[tensor.dtype])
        if file.readinto(data) != len(data):
            raise UnusableWeightsError(
                f"holds {tensor.file.name}, which became shorter", "Leave it alone meanwhile."
            )
        return torch.frombuffer(data, dtype=dtype)


class _CheckpointWeights:
    """A checkpoint of a session, with every name that tied parameters have."""

    def __init__(self, folder: Path) -> None:
        self._reader = CheckpointReader(folder)
        tied: list[list[str]] = json.loads((folder / "model.json").read_text())["tied"]
        self._saved_as = {name: name for name in self._reader.parameters}
        for names in tied:
            saved = next(name for name in names if name in self._reader.parameters)
            self._saved_as |= dict.fromkeys(names, saved)
        self.shapes = {
            name: tuple(self._reader.parameters[saved]["shape"])
            for name, saved in self._saved_as.items()
        }
        self.buffers: dict[str, tuple[int, ...]] = {}

    def __enter__(self) -> WeightReader:
        self._reader.__enter__()
        self.buffers = self._reader.buffer_shapes()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reader.__exit__(kind, error, trace)

    def stored_as(self, name: str) -> str:
        return self._saved_as[name]

    def read(self, name: str, start: int, out: torch.Tensor) -> None:
        self._reader.read(f"{WEIGHT}/{self._saved_as[name]}", start, out)

    def read_buffers(self, module: torch.nn.Module) -> None:
        # A new session: every rank takes those of rank 0.
        self._reader.read_buffers(module, 0)


def _names_of(module: torch.nn.Module) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def _problems_of_buffers(reader: WeightReader, buffers: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Checkpoints keep buffers flat, so that there only the number of elements is known."""
    problems = []
    for name, shape in buffers.items():
        there = reader.buffers.get(name)
        if there is None:
            problems.append(f"the buffer {name} is missing")
        elif there != shape and there != (torch.Size(shape).numel(),):
            problems.append(f"the buffer {name} is {list(there)} and not {list(shape)}")
    return problems


def _is_left_over(module: torch.nn.Module, name: str) -> bool:
    """Whether transformers itself passes over a name in folders of this model."""
    patterns = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    return any(re.search(pattern, name) for pattern in patterns)


def _require_tied_alike(
    reader: WeightReader,
    module: torch.nn.Module,
    names: Mapping[int, list[str]],
    found: Mapping[str, str],
) -> None:
    """Weights that are one here must not be two different ones there."""
    for name, parameter in module.named_parameters():
        there = [alias for alias in names[id(parameter)] if alias in reader.shapes]
        for other in there[1:]:
            if reader.stored_as(other) == reader.stored_as(found[name]):
                continue
            if not _are_equal(reader, found[name], other, torch.Size(whole_shape(parameter))):
                raise UnusableWeightsError(
                    f"holds {found[name]} and {other} with different values, but the model here "
                    "ties them",
                    "Set model.config.tie_word_embeddings to false, or take other weights.",
                )


def _are_equal(reader: WeightReader, one: str, other: str, shape: torch.Size) -> bool:
    for start in range(0, shape.numel(), _BLOCK_ELEMENTS):
        size = min(_BLOCK_ELEMENTS, shape.numel() - start)
        left, right = torch.empty(size), torch.empty(size)
        reader.read(one, start, left)
        reader.read(other, start, right)
        if not torch.equal(left, right):
            return False
    return True


def _misfit(problems: list[str]) -> UnusableWeightsError:
    shown = ", ".join(problems[:_MOST_LINES])
    more = len(problems) - _MOST_LINES
    shown += f" and {more} more" if more > 0 else ""
    fix = "Describe in `model` the model that they are of, or take other weights."
    if any("lm_head" in line and "missing" in line for line in problems):
        fix += " Weights without lm_head are of a model with tie_word_embeddings: true."
    return UnusableWeightsError(f"does not fit the model: {shown}", fix)
