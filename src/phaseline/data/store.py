"""The store of one tokenised source: tokens end to end, and where each document begins.

It knows nothing of sequence lengths, so that phases of different lengths share it. A folder
holds `store.json` and, for `train` and `held_out` each, `<split>.tokens` (uint16 or uint32,
little endian), `<split>.offsets.npy` (int64, sequences + 1) and, unless it is text,
`<split>.learnt` (uint8, one per token: whether it is to be predicted).
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from phaseline.data.cache import Proceed, always_proceed
from phaseline.data.encoding import Dropped, EncodedSample, SampleEncoder
from phaseline.data.sources import Sample, Source
from phaseline.data.split import is_held_out
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from phaseline.data.sources.protocol import Shape
    from phaseline.data.tokenizer import Tokenizer

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")
Tokens = NDArray[np.uint16] | NDArray[np.uint32]

# Part of the cache key of every store; raise it when the format or its content changes.
STORE_VERSION = 2

_STORE_FILE = "store.json"
_SAMPLES_AT_ONCE = 64
_LARGEST_UINT16_VOCABULARY = 1 << 16


@dataclass(frozen=True)
class SplitData:
    """One side of a store, mapped from its files.

    Attributes:
        tokens: All sequences end to end, each with its end-of-sequence token.
        offsets: Where each sequence begins, and the end of the last, `[sequences + 1]`.
        learnt: Of each token, whether it is to be predicted, `[tokens]`; None for text, of
            which every token is.
    """

    tokens: Tokens
    offsets: NDArray[np.int64]
    learnt: NDArray[np.uint8] | None

    @property
    def num_documents(self) -> int:
        """Documents on this side."""
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Store:
    """A tokenised source.

    Attributes:
        shape: Of its source.
        train: What is trained on.
        held_out: What is only validated on; no document is on both sides.
        dropped: Documents that were left out, by reason.
    """

    shape: Shape
    train: SplitData
    held_out: SplitData
    dropped: dict[str, int]


def write_store(
    folder: Path,
    source: Source,
    tokenizer: Tokenizer,
    *,
    seed: int,
    held_out_frac: float,
    proceed: Proceed = always_proceed,
) -> None:
    """Tokenises a source into an empty folder.

    Args:
        folder: Empty.
        source: What is tokenised.
        tokenizer: Encodes it.
        seed: Decides with each document's id on which side of the split it falls.
        held_out_frac: Share of the documents that are held out.
        proceed: Called before each document; what it raises ends the work.

    Raises:
        DataError: Two documents have the same id.
    """
    is_small = tokenizer.vocab_size <= _LARGEST_UINT16_VOCABULARY
    dtype = np.dtype("<u2" if is_small else "<u4")
    encoder = SampleEncoder(tokenizer)
    dropped: Counter[str] = Counter()
    with ExitStack() as files:
        writers = {
            split: _SplitWriter(files, folder, split, dtype, source.shape) for split in SPLITS
        }
        for samples in _in_groups(_distinct(source, proceed)):
            for encoded in encoder.encode(samples):
                if isinstance(encoded, Dropped):
                    dropped[encoded.reason] += 1
                    continue
                is_apart = is_held_out(seed, encoded.document, held_out_frac)
                writers["held_out" if is_apart else "train"].add(encoded)
        for writer in writers.values():
            writer.save_index()
    dropped.update(getattr(source, "skipped", {}))
    header = {"shape": source.shape, "dtype": dtype.str, "dropped": dict(dropped)}
    (folder / _STORE_FILE).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")


def read_store(folder: Path) -> Store:
    """Maps a store's files; nothing is read before it is used."""
    header = json.loads((folder / _STORE_FILE).read_text(encoding="utf-8"))
    dtype = np.dtype(header["dtype"])
    train, held_out = (_read_split(folder, split, dtype, header["shape"]) for split in SPLITS)
    return Store(header["shape"], train, held_out, header["dropped"])


class _SplitWriter:
    def __init__(
        self,
        files: ExitStack,
        folder: Path,
        split: Split,
        dtype: np.dtype[np.unsignedinteger],
        shape: Shape,
    ) -> None:
        self._tokens: IO[bytes] = files.enter_context(_tokens_file(folder, split).open("wb"))
        self._learnt: IO[bytes] | None = None
        if shape != "text":
            self._learnt = files.enter_context(_learnt_file(folder, split).open("wb"))
        self._index = _offsets_file(folder, split)
        self._dtype = dtype
        self._lengths: list[int] = []

    def add(self, sample: EncodedSample) -> None:
        for sequence in sample.sequences:
            self._tokens.write(np.asarray(sequence.tokens, self._dtype).tobytes())
            self._lengths.append(len(sequence.tokens))
            if self._learnt is not None:
                self._learnt.write(sequence.learnt or b"\1" * len(sequence.tokens))

    def save_index(self) -> None:
        offsets = np.zeros(len(self._lengths) + 1, "<i8")
        np.cumsum(self._lengths, out=offsets[1:])
        np.save(self._index, offsets)


def _distinct(source: Source, proceed: Proceed) -> Iterator[Sample]:
    seen: set[str] = set()
    for sample in source.samples():
        proceed()
        if sample.id in seen:
            raise DataError(
                f"a data source yields two samples with the id {sample.id!r}. Ids must be "
                "unique, because they decide what is held out."
            )
        seen.add(sample.id)
        yield sample


def _in_groups(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    while group := list(islice(samples, _SAMPLES_AT_ONCE)):
        yield group


def _read_split(
    folder: Path, split: Split, dtype: np.dtype[np.unsignedinteger], shape: Shape
) -> SplitData:
    tokens: Tokens = _map(_tokens_file(folder, split), dtype)
    learnt = None if shape == "text" else _map(_learnt_file(folder, split), np.dtype(np.uint8))
    return SplitData(tokens, np.load(_offsets_file(folder, split)), learnt)


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    # An empty file cannot be mapped. The plain array view spares numpy's memmap overhead.
    is_empty = path.stat().st_size == 0
    return np.zeros(0, dtype) if is_empty else np.asarray(np.memmap(path, dtype, mode="r"))


def _tokens_file(folder: Path, split: Split) -> Path:
    return folder / f"{split}.tokens"


def _offsets_file(folder: Path, split: Split) -> Path:
    return folder / f"{split}.offsets.npy"


def _learnt_file(folder: Path, split: Split) -> Path:
    return folder / f"{split}.learnt"
