"""The store of one source: tokens end to end, and where each sequence begins; or numbers.

It knows nothing of sequence lengths, so that phases of different lengths share it. A folder
holds `store.json` and, for `train` and `held_out` each:

- `<split>.tokens`: uint16 or uint32, little endian;
- `<split>.offsets.npy`: int64, sequences + 1;
- `<split>.contents.npy`: uint64, one per sample: a digest of its tokens or numbers;
- `<split>.learnt`: uint8, one per token, whether it is to be predicted; of pairs, chats and
  preferences.

Samples with a label have besides:

- `<split>.labels.npy`: int64, one per sample: its class;
- `<split>.numbers.npy`: all images, or rows of features, in their own type: `[samples, ...]`. They
  stand in the place of tokens, of which there is then no file.

A sample is one sequence; of preferences it is two, the chosen and then the rejected. A sequence
ends with the end-of-sequence token, but that of a chat ends as its template says.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phaseline.data.block_hashes import CheckedFile
from phaseline.data.encoded_chunk import SPLITS, Split
from phaseline.data.encoding import SEQUENCES_PER_SAMPLE
from phaseline.data.fingerprints import fingerprint_of
from phaseline.data.labels import Form
from phaseline.session.stored import parse_object, read_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from phaseline.data.sources.protocol import Shape

Tokens = NDArray[np.uint16] | NDArray[np.uint32]

# Part of the cache key of every store; raise it when the format or its content changes.
STORE_VERSION = 4

STORE_FILE = "store.json"
_REMEDY = "Remove the folder that it is in: the next start prepares it anew."

UNMASKED: tuple[Shape, ...] = ("text", "labelled")
"""Shapes of which no token is only read, or all are."""


@dataclass(frozen=True)
class SplitChecks:
    """Compares blocks of a side's large files before they are first read.

    Attributes:
        files: Of the tokens and of what is learnt of them, or of the numbers; none where a side
            lies in memory alone.
    """

    files: tuple[CheckedFile, ...] = ()

    def require(self, first: NDArray[np.int64] | int, end: NDArray[np.int64] | int) -> None:
        """Compares ranges of tokens, or of samples where there are none.

        Raises:
            DamagedDataError: They are not what was written.
        """
        for file in self.files:
            file.require(first, end)

    def require_learnt(self, first: int, end: int) -> None:
        """Compares a range of what is learnt, and no tokens.

        Raises:
            DamagedDataError: It is not what was written.
        """
        for file in self.files[1:]:
            file.require(first, end)


@dataclass(frozen=True)
class SplitData:
    """One side of a store, mapped from its files.

    Attributes:
        tokens: All sequences end to end.
        offsets: Where each sequence begins, and the end of the last, `[sequences + 1]`.
        learnt: Of each token, whether it is to be predicted, `[tokens]`; None for text, of
            which every token is, and for samples with a label, of which none is.
        sequences_per_sample: 2 for preferences, else 1.
        contents: Of each sample, a digest of its content, `[samples]`; None if unknown.
        labels: The class of each sample, `[samples]`; None where they have none.
        numbers: Images or rows of features, `[samples, ...]`; there are no tokens then. None
            where there are.
        checks: Compares what is about to be read of the large files with what was written.
    """

    tokens: Tokens
    offsets: NDArray[np.int64]
    learnt: NDArray[np.uint8] | None
    sequences_per_sample: int = 1
    contents: NDArray[np.uint64] | None = None
    labels: NDArray[np.int64] | None = None
    numbers: NDArray[Any] | None = None
    checks: SplitChecks = SplitChecks()

    @property
    def num_tokens(self) -> int:
        """What this side counts in durations: its tokens; of images and features each is one."""
        return len(self.tokens) if self.numbers is None else len(self.numbers)

    @property
    def num_documents(self) -> int:
        """Samples on this side."""
        if self.numbers is not None:
            return len(self.numbers)
        return (len(self.offsets) - 1) // self.sequences_per_sample


@dataclass(frozen=True)
class Store:
    """A prepared source.

    Attributes:
        shape: Of its source.
        train: What is trained on.
        held_out: What is only validated on; no document is on both sides.
        dropped: Samples that were left out, by reason.
        facts: What else is known of it, as `store.json` says it.
        contents: A digest of all that was written of both sides, hexadecimal; empty where a
            store lies in memory alone.
    """

    shape: Shape
    train: SplitData
    held_out: SplitData
    dropped: dict[str, int]
    facts: Mapping[str, Any]
    contents: str = ""

    @property
    def form(self) -> Form | None:
        """Of its images or features; None where it holds tokens."""
        told = self.facts.get("form")
        return None if told is None else Form(told[0], tuple(told[1]))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of each class, if its source names them."""
        return tuple(self.facts.get("class_names", ()))

    @property
    def num_classes(self) -> int:
        """Classes that its labels are of: those that are named, or up to the largest label."""
        return int(self.facts.get("classes", 0))


def read_store(folder: Path) -> Store:
    """Maps a store's files. Tokens and numbers are read when they are used, the rest at once.

    Raises:
        DamagedDataError: A file is not what was written.
    """
    path = folder / STORE_FILE
    header = parse_object(read_file(path, remedy=_REMEDY), path, remedy=_REMEDY)
    dtype = np.dtype(header["dtype"])
    digests: dict[str, str] = {}
    train, held_out = (
        _read_split(folder, split, dtype, header["shape"], digests) for split in SPLITS
    )
    contents = fingerprint_of(sorted(digests.items()))
    return Store(header["shape"], train, held_out, header["dropped"], header, contents)


def _read_split(
    folder: Path,
    split: Split,
    dtype: np.dtype[np.unsignedinteger],
    shape: Shape,
    digests: dict[str, str],
) -> SplitData:
    """Maps one side's files, and adds the digest of each to `digests` by its name."""
    contents = _map_array(contents_file(folder, split), digests)
    labels = _map_array(labels_file(folder, split), digests) if shape == "labelled" else None
    path = numbers_file(folder, split)
    if path.exists():
        nothing = np.zeros(0, dtype), np.zeros(1, np.int64), None
        # The header says what the bytes behind it are: it is believed only as it was written.
        _check(path, 1, {}).require(0, 1)
        numbers = np.load(path, mmap_mode="r")
        item_bytes = numbers.dtype.itemsize * prod(numbers.shape[1:])
        checked = _check(path, item_bytes, digests, numbers.offset)
        return SplitData(
            *nothing,
            contents=contents,
            labels=labels,
            numbers=np.asarray(numbers),
            checks=SplitChecks((checked,)),
        )
    path = tokens_file(folder, split)
    tokens: Tokens = _map(path, dtype)
    checks = [_check(path, dtype.itemsize, digests)]
    learnt = None
    if shape not in UNMASKED:
        path = learnt_file(folder, split)
        learnt = _map(path, np.dtype(np.uint8))
        checks.append(_check(path, 1, digests))
    return SplitData(
        tokens,
        _map_array(offsets_file(folder, split), digests),
        learnt,
        SEQUENCES_PER_SAMPLE[shape],
        contents,
        labels,
        checks=SplitChecks(tuple(checks)),
    )


def _check(path: Path, item_bytes: int, digests: dict[str, str], offset: int = 0) -> CheckedFile:
    file = CheckedFile(path, item_bytes=item_bytes, offset=offset)
    digests[path.name] = file.digest
    return file


def _map_array(path: Path, digests: dict[str, str]) -> NDArray[Any]:
    _check(path, 1, digests).require_all()
    array = np.load(path, mmap_mode="r")
    return np.asarray(array)


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    # An empty file cannot be mapped. The plain array view spares numpy's memmap overhead.
    is_empty = path.stat().st_size == 0
    return np.zeros(0, dtype) if is_empty else np.asarray(np.memmap(path, dtype, mode="r"))


def tokens_file(folder: Path, split: Split) -> Path:
    """Where a side's tokens are."""
    return folder / f"{split}.tokens"


def offsets_file(folder: Path, split: Split) -> Path:
    """Where it says at which token each sequence begins."""
    return folder / f"{split}.offsets.npy"


def learnt_file(folder: Path, split: Split) -> Path:
    """Where it says which tokens are learnt."""
    return folder / f"{split}.learnt"


def contents_file(folder: Path, split: Split) -> Path:
    """Where the digests of the samples are."""
    return folder / f"{split}.contents.npy"


def labels_file(folder: Path, split: Split) -> Path:
    """Where the classes of the samples are."""
    return folder / f"{split}.labels.npy"


def numbers_file(folder: Path, split: Split) -> Path:
    """Where images or rows of features are."""
    return folder / f"{split}.numbers.npy"
