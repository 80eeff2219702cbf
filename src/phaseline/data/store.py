"""The store of one tokenised source: tokens end to end, and where each document begins.

It knows nothing of sequence lengths, so that phases of different lengths share it. A folder
holds `store.json` and, for `train` and `held_out` each, `<split>.tokens` (uint16 or uint32,
little endian), `<split>.offsets.npy` (int64, documents + 1) and for pairs
`<split>.prompts.npy` (int64, tokens of each prompt).
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import IO, TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from phaseline.data.cache import Proceed, always_proceed
from phaseline.data.sources import Document, Pair, Source
from phaseline.data.split import is_held_out
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from phaseline.data.sources.protocol import Shape
    from phaseline.data.tokenizer import Tokenizer

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")
Tokens = NDArray[np.uint16] | NDArray[np.uint32]

# Part of the cache key of every store; raise it when the format or its content changes.
STORE_VERSION = 1

_STORE_FILE = "store.json"
_ROWS_AT_ONCE = 64
_LARGEST_UINT16_VOCABULARY = 1 << 16


@dataclass(frozen=True)
class SplitData:
    """One side of a store, mapped from its files.

    Attributes:
        tokens: All documents end to end, each with its end-of-sequence token.
        offsets: Where each document begins, and the end of the last, `[documents + 1]`.
        prompt_lengths: Tokens of each document that are its prompt; None for text.
    """

    tokens: Tokens
    offsets: NDArray[np.int64]
    prompt_lengths: NDArray[np.int64] | None

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
    dropped: Counter[str] = Counter()
    with ExitStack() as files:
        writers = {
            split: _SplitWriter(files.enter_context(_tokens_file(folder, split).open("wb")), dtype)
            for split in SPLITS
        }
        for rows in _in_groups(_rows(source, dropped, proceed)):
            prompts = tokenizer.encode_batch([row.prompt for row in rows])
            texts = tokenizer.encode_batch([row.text for row in rows])
            for row, prompt, text in zip(rows, prompts, texts, strict=True):
                split: Split = (
                    "held_out" if is_held_out(seed, row.document, held_out_frac) else "train"
                )
                writers[split].add([*prompt, *text, tokenizer.eos_id], len(prompt))
    for split, writer in writers.items():
        writer.save_index(folder, split, with_prompts=source.shape == "pairs")
    header = {"shape": source.shape, "dtype": dtype.str, "dropped": dict(dropped)}
    (folder / _STORE_FILE).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")


def read_store(folder: Path) -> Store:
    """Maps a store's files; nothing is read before it is used."""
    header = json.loads((folder / _STORE_FILE).read_text(encoding="utf-8"))
    dtype = np.dtype(header["dtype"])
    train, held_out = (_read_split(folder, split, dtype, header["shape"]) for split in SPLITS)
    return Store(header["shape"], train, held_out, header["dropped"])


@dataclass(frozen=True)
class _Row:
    document: str
    prompt: str
    text: str


class _SplitWriter:
    def __init__(self, file: IO[bytes], dtype: np.dtype[np.unsignedinteger]) -> None:
        self._file = file
        self._dtype = dtype
        self._lengths: list[int] = []
        self._prompt_lengths: list[int] = []

    def add(self, tokens: list[int], prompt_length: int) -> None:
        self._file.write(np.asarray(tokens, self._dtype).tobytes())
        self._lengths.append(len(tokens))
        self._prompt_lengths.append(prompt_length)

    def save_index(self, folder: Path, split: Split, *, with_prompts: bool) -> None:
        offsets = np.zeros(len(self._lengths) + 1, "<i8")
        np.cumsum(self._lengths, out=offsets[1:])
        np.save(_offsets_file(folder, split), offsets)
        if with_prompts:
            np.save(_prompts_file(folder, split), np.asarray(self._prompt_lengths, "<i8"))


def _rows(source: Source, dropped: Counter[str], proceed: Proceed) -> Iterator[_Row]:
    seen: set[str] = set()
    samples: Iterable[Document | Pair] = (
        source.documents() if source.shape == "text" else source.pairs()
    )
    for sample in samples:
        proceed()
        if sample.id in seen:
            raise DataError(
                f"a data source yields two samples with the id {sample.id!r}. Ids must be "
                "unique, because they decide what is held out."
            )
        seen.add(sample.id)
        if isinstance(sample, Document):
            row, problem = _Row(sample.id, "", sample.text), "empty text"
        else:
            document = sample.id if sample.document is None else sample.document
            row, problem = _Row(document, sample.prompt, sample.completion), "empty completion"
        if row.text:
            yield row
        else:
            dropped[problem] += 1


def _in_groups(rows: Iterator[_Row]) -> Iterator[list[_Row]]:
    while group := list(islice(rows, _ROWS_AT_ONCE)):
        yield group


def _read_split(
    folder: Path, split: Split, dtype: np.dtype[np.unsignedinteger], shape: Shape
) -> SplitData:
    path = _tokens_file(folder, split)
    # An empty file cannot be mapped. The plain array view spares numpy's memmap overhead.
    is_empty = path.stat().st_size == 0
    tokens = np.zeros(0, dtype) if is_empty else np.asarray(np.memmap(path, dtype, mode="r"))
    offsets = np.load(_offsets_file(folder, split))
    prompts = np.load(_prompts_file(folder, split)) if shape == "pairs" else None
    return SplitData(tokens, offsets, prompts)


def _tokens_file(folder: Path, split: Split) -> Path:
    return folder / f"{split}.tokens"


def _offsets_file(folder: Path, split: Split) -> Path:
    return folder / f"{split}.offsets.npy"


def _prompts_file(folder: Path, split: Split) -> Path:
    return folder / f"{split}.prompts.npy"
