"""Log-probabilities of a reference as files: whole, or not there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phaseline.data.block_hashes import hashes_file, is_intact, write_hashes
from phaseline.data.encoded_chunk import Split
from phaseline.errors import DataError, UnreachableFileError
from phaseline.session.files import fsync_file, fsync_folder

SIDES: tuple[Split, ...] = ("train", "held_out")


@dataclass(frozen=True, kw_only=True)
class ReferenceFiles:
    """One file per source and side of the split, `[pairs, 2]`, fp32: chosen and rejected.

    A file's name says what its numbers are of, so that others are never taken for them.

    Attributes:
        folder: Where they lie.
        fingerprints: Of each side: the pairs, the tokenizer and the weights.
        num_pairs: Of each side by source.
        fence: Raises in a process that must not write to the session any more.
    """

    folder: Path
    fingerprints: Mapping[Split, str]
    num_pairs: Mapping[Split, Sequence[int]]
    fence: Callable[[], None]

    def read(self) -> dict[Split, NDArray[np.float32]] | None:
        """The numbers of each side, source after source; None if any of them is not there.

        Raises:
            DataError: A file holds something else.
        """
        found: dict[Split, NDArray[np.float32]] = {}
        for side in SIDES:
            paths = self.paths(side)
            if not all(path.is_file() for path in paths):
                return None
            parts = [self._load(*each) for each in zip(paths, self.num_pairs[side], strict=True)]
            found[side] = np.concatenate(parts)
        return found

    def publish(self, tables: Mapping[Split, NDArray[np.float32]]) -> None:
        """Writes what `read` is to find; files of other weights or data go. **Ranks:** main."""
        # On other ranks the last bits are others: a phase must keep those that it began with.
        self.fence()
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = set()
        for side in SIDES:
            edges = np.cumsum(self.num_pairs[side])[:-1]
            for path, part in zip(self.paths(side), np.split(tables[side], edges), strict=True):
                _write(path, part)
                wanted.add(path)
        for path in self.folder.glob("*.npy"):
            if path not in wanted:
                path.unlink()
                hashes_file(path).unlink(missing_ok=True)
        fsync_folder(self.folder)

    def paths(self, side: Split) -> list[Path]:
        """Where the numbers of a side are, by source."""
        name = self.fingerprints[side]
        return [
            self.folder / f"{side}-{source_idx}-{name}.npy"
            for source_idx in range(len(self.num_pairs[side]))
        ]

    def _load(self, path: Path, num_pairs: int) -> NDArray[np.float32]:
        if not is_intact(path):
            raise DataError(
                f"{path} does not hold what was written, and the policy would be held against "
                "other numbers. Restore it from a copy; or, as long as the phase has no "
                f"checkpoint, remove {self.folder}: the next start measures them anew."
            )
        try:
            values: NDArray[np.float32] = np.load(path)
        except (OSError, ValueError) as error:
            UnreachableFileError.require_lasting(error, path)
            raise DataError(f"{path} cannot be read: {error}. Restore it from a copy.") from error
        if values.shape != (num_pairs, 2) or values.dtype != np.float32:
            raise DataError(
                f"{path} holds {values.dtype} {list(values.shape)} where float32 "
                f"[{num_pairs}, 2] was written. Restore it from a copy."
            )
        return values


def _write(path: Path, values: NDArray[np.float32]) -> None:
    """The numbers, and hashes of their file; these first, so that no file of numbers lacks them."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with aside.open("wb") as file:
            np.save(file, values)
            file.flush()
            os.fsync(file.fileno())
        write_hashes(aside)
        fsync_file(hashes_file(aside))
        hashes_file(aside).replace(hashes_file(path))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
        hashes_file(aside).unlink(missing_ok=True)
