"""Finding out that two samples have one id, in memory that does not grow with the corpus."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import numpy as np

from phaseline.data.encoded_chunk import id_digest
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from typing_extensions import Self

    from phaseline.data.sources.protocol import Sample

_FILE = "ids"
_FIRST_LOOK = 1 << 16


class RepeatedIds:
    """Digests of ids, in a file beside the store, sorted whenever there are twice as many.

    So a repeated id is found before twice the samples up to it were read. The file is sorted
    where it is mapped, so that the system may take its memory back at any time.
    """

    def __init__(self, folder: Path, confirm: Callable[[set[bytes]], None]) -> None:
        """Begins without ids.

        Args:
            folder: Where the file lies as long as it is needed.
            confirm: Given digests that are there twice, raises if ids are.
        """
        self._path = folder / _FILE
        self._confirm = confirm
        self._distinct: set[bytes] = set()
        self._num_ids = 0
        self._next_look = _FIRST_LOOK

    def __enter__(self) -> Self:
        self._file: IO[bytes] = self._path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink()

    def add(self, digests: bytes) -> None:
        """Takes the digests of more ids, and looks if it is time."""
        self._file.write(digests)
        self._num_ids += len(digests) // 8
        if self._num_ids >= self._next_look:
            self._next_look = 2 * self._num_ids
            self.require_none()

    def require_none(self) -> None:
        """Looks at all ids so far; raises what `confirm` raises."""
        self._file.flush()
        if self._num_ids == 0:
            return
        digests = np.memmap(self._path, "<u8", mode="r+")
        digests.sort()
        repeated = digests[1:][digests[1:] == digests[:-1]]
        # Two ids may have one digest by chance, in a very large corpus.
        found = {digest.tobytes() for digest in np.unique(repeated)} - self._distinct
        if found:
            self._confirm(found)
            self._distinct |= found


def require_distinct(samples: Iterable[Sample], source: str, digests: set[bytes]) -> None:
    """Reads a source once more to see whether ids with these digests are the same.

    Args:
        samples: Of the source, from the first on.
        source: Its name.
        digests: Those that were met twice.

    Raises:
        DataError: Two are the same.
    """
    seen: set[str] = set()
    for sample in samples:
        if id_digest(sample.id) not in digests:
            continue
        if sample.id in seen:
            raise DataError(
                f"a data source yields two samples with the id {sample.id!r}: {source}. Ids must "
                "be unique, because they decide what is held out."
            )
        seen.add(sample.id)
