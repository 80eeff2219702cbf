"""Hashes of a cache entry's files, block by block, and the check of what is read.

A flipped bit of prepared data would train other weights without a word. So an entry has a hash
for every block of 64 KiB of each of its files, made when it is written. A process compares a
block when it first reads it: no start has to read a corpus, and nothing is trained on that was
not compared. No torch.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from phaseline.errors import DamagedDataError, UnreachableFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_BYTES = 1 << 16
HASHES_SUFFIX = ".xxh3"
"""Of the file beside each file that holds its blocks' hashes, uint64, little endian."""
ENTRY_MANIFEST = "manifest.json"

Ids = NDArray[np.int64]


def write_hashes(path: Path) -> str:
    """Writes the hashes of a file's blocks beside it, and returns a digest of them."""
    hashes = np.fromiter(_hashes_of(path), "<u8")
    data = hashes.tobytes()
    hashes_file(path).write_bytes(data)
    return xxhash.xxh3_64_hexdigest(data)


def hashes_file(path: Path) -> Path:
    """Where the hashes of a file's blocks are."""
    return path.with_name(path.name + HASHES_SUFFIX)


def is_intact(path: Path) -> bool:
    """Reads a whole file and compares every block.

    Raises:
        UnreachableFileError: It cannot be read just now.
    """
    try:
        hashes = np.frombuffer(hashes_file(path).read_bytes(), "<u8")
        found = np.fromiter(_hashes_of(path), "<u8")
    except (OSError, ValueError) as error:
        UnreachableFileError.require_lasting(error, path)
        return False
    return np.array_equal(hashes, found)


def _hashes_of(path: Path) -> Iterator[int]:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield xxhash.xxh3_64_intdigest(block)


class CheckedFile:
    """A mapped file of a cache entry whose blocks are compared before they are first used.

    One that differs takes its entry out of use, so that the next start makes it anew.
    """

    def __init__(self, path: Path, *, item_bytes: int, offset: int = 0) -> None:
        """Maps the file; reads the hashes.

        Args:
            path: The file.
            item_bytes: Of one item, as ranges are counted.
            offset: Where the first item begins.
        """
        self._path = path
        self._item_bytes = item_bytes
        self._offset = offset
        size = path.stat().st_size
        self._bytes: NDArray[np.uint8] | None = np.memmap(path, np.uint8, "r") if size else None
        self._hashes = np.fromfile(hashes_file(path), "<u8")
        self._is_checked = np.zeros(-(-size // BLOCK_BYTES), bool)
        self._num_left = len(self._is_checked)
        if len(self._hashes) != self._num_left:
            raise self._damage(0)

    @property
    def digest(self) -> str:
        """Names what was written, hexadecimal; nothing is read for it."""
        return xxhash.xxh3_64_hexdigest(self._hashes.tobytes())

    def require(self, first: Ids | int, end: Ids | int) -> None:
        """Compares what has not been compared of some ranges of items.

        Args:
            first: The first item of each range. `[ranges]`
            end: The item after the last one. `[ranges]`

        Raises:
            DamagedDataError: A block does not hold what was written.
        """
        if self._num_left == 0:
            return
        begin = (np.asarray(first) * self._item_bytes + self._offset) // BLOCK_BYTES
        last = (np.asarray(end) * self._item_bytes + self._offset - 1) // BLOCK_BYTES
        # Most ranges lie in one block, or in two.
        for low, high in zip(begin.reshape(-1).tolist(), last.reshape(-1).tolist(), strict=True):
            if not self._is_checked[low : high + 1].all():
                for block in range(low, high + 1):
                    self._check(block)

    def require_all(self) -> None:
        """Compares the whole file."""
        for block in range(len(self._is_checked)):
            self._check(block)

    def _check(self, block: int) -> None:
        if self._is_checked[block]:
            return
        assert self._bytes is not None
        begin = block * BLOCK_BYTES
        data: Any = self._bytes[begin : begin + BLOCK_BYTES]
        if xxhash.xxh3_64_intdigest(data) != int(self._hashes[block]):
            raise self._damage(block)
        self._is_checked[block] = True
        self._num_left -= 1

    def _damage(self, block: int) -> DamagedDataError:
        entry = self._path.parent
        # Without its manifest it is no entry any more; a cache that cannot be written stays.
        with suppress(OSError):
            (entry / ENTRY_MANIFEST).unlink()
        return DamagedDataError(
            f"{self._path} does not hold what was written, in the 64 KiB from byte "
            f"{block * BLOCK_BYTES} on: the disk or another program changed the cache of prepared "
            "data. Nothing was trained on it. The next start makes this entry anew: run the same "
            "command again."
        )
