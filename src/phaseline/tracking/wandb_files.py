"""Reading the files that wandb leaves on disk, `run-<id>.wandb`.

**Source:** found by reading such files (wandb 0.31): a header of 7 bytes, then blocks of
LevelDB's log format. Nothing here imports wandb.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_FILE_HEADER = struct.Struct("<4sHB")
_CHUNK_HEADER = struct.Struct("<IHB")
_MAGIC = (b":W&B", 0xBEE1)
_BLOCK_BYTES = 32768
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def read_wandb_file(path: Path) -> Iterator[bytes]:
    """Yields the payload of every whole record, up to the first that is torn.

    A writer that was killed leaves the file short of the blocks it had not flushed; what is
    yielded is what anyone who reads the file will ever see.
    """
    with path.open("rb") as file:
        parts: list[bytes] = []
        for kind, chunk in _chunks(file):
            if kind in (_FULL, _FIRST):
                parts = []
            parts.append(chunk)
            if kind in (_FULL, _LAST):
                yield b"".join(parts)


def _chunks(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Block by block, which no chunk goes beyond: a file may be larger than memory."""
    block = file.read(_BLOCK_BYTES)
    if len(block) < _FILE_HEADER.size or _FILE_HEADER.unpack_from(block)[:2] != _MAGIC:
        return
    # The first block counts the file's header.
    at = _FILE_HEADER.size
    while block:
        while at + _CHUNK_HEADER.size <= len(block):
            crc, num_bytes, kind = _CHUNK_HEADER.unpack_from(block, at)
            at += _CHUNK_HEADER.size
            chunk = block[at : at + num_bytes]
            if not _FULL <= kind <= _LAST or zlib.crc32(bytes([kind]) + chunk) != crc:
                return
            at += num_bytes
            yield kind, chunk
        block, at = file.read(_BLOCK_BYTES), 0
