"""Preparation that is shared by several jobs: each leaves a part, and one puts them together.

Chunks are dealt out in turn, so that the parts, read in turn, give all chunks in their order:
the store is the same to the byte as one that a single job writes.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from typing import IO, TYPE_CHECKING

from phaseline.data.encoded_chunk import EncodedChunk
from phaseline.errors import DataError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from phaseline.data.cache import Cache

PARTS = "parts"
_CHUNKS_FILE = "chunks"
_SIZE_BYTES = 8


@dataclass(frozen=True)
class Shard:
    """One of several jobs.

    Attributes:
        number: Which one, from 1.
        count: How many there are.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Reads `2/8`.

        Raises:
            UsageError: It is nothing like that.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(
                f"--shard is {text!r}; it must be as 2/8, the second of eight jobs. In a SLURM "
                "array from 1 to 8: --shard $SLURM_ARRAY_TASK_ID/8."
            )
        return cls(int(match[1]), int(match[2]))

    def entry(self, store: str) -> str:
        """The name of its part of a store."""
        return f"{store}-{self.number}of{self.count}"

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class Parts:
    """What jobs left of one store.

    Attributes:
        folders: By number, from 1.
        count: How many there will be.
    """

    folders: dict[int, Path]
    count: int

    @property
    def missing(self) -> list[int]:
        """Numbers of the jobs that have left none yet."""
        return [number for number in range(1, self.count + 1) if number not in self.folders]


def find_parts(cache: Cache, store: str) -> Parts | None:
    """The parts of a store: those that are complete, else those of which the least is missing."""
    by_count: dict[int, dict[int, Path]] = {}
    for folder in cache.entries(PARTS, f"{store}-*of*"):
        number, count = map(int, folder.name.removeprefix(f"{store}-").split("of"))
        by_count.setdefault(count, {})[number] = folder
    every = [Parts(folders, count) for count, folders in by_count.items()]
    return min(every, key=lambda parts: len(parts.missing), default=None)


def write_part(folder: Path, chunks: Iterable[EncodedChunk]) -> None:
    """Writes a job's chunks."""
    with (folder / _CHUNKS_FILE).open("wb") as file:
        for chunk in chunks:
            data = chunk.to_bytes()
            file.write(len(data).to_bytes(_SIZE_BYTES, "little"))
            file.write(data)


def read_parts(parts: Parts, source: str) -> Generator[EncodedChunk]:
    """Reads all chunks in their order.

    Raises:
        DataError: A job has left no part yet.
    """
    if parts.missing:
        missing = ", ".join(map(str, parts.missing))
        folder = next(iter(parts.folders.values())).parent
        raise DataError(
            f"data source {source!r} is prepared in {parts.count} shards, of which these are "
            f"missing: {missing}. Run `phaseline prepare --shard NUMBER/{parts.count}` for them; "
            f"or, to prepare it in one job, remove its other shards from {folder}."
        )
    with ExitStack() as files:
        opened = [
            files.enter_context((parts.folders[number] / _CHUNKS_FILE).open("rb"))
            for number in range(1, parts.count + 1)
        ]
        for file in cycle(opened):
            chunk = _read_chunk(file)
            if chunk is None:
                return
            yield chunk


def _read_chunk(file: IO[bytes]) -> EncodedChunk | None:
    size = file.read(_SIZE_BYTES)
    return EncodedChunk.from_bytes(file.read(int.from_bytes(size, "little"))) if size else None
