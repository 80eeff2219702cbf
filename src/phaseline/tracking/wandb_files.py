"""Reading the files that wandb leaves on disk, `run-<id>.wandb`.

**Source:** found by reading such files (wandb 0.31): a header of 7 bytes, then blocks of
LevelDB's log format. Nothing here imports wandb.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

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
    data = path.read_bytes()
    if len(data) < _FILE_HEADER.size or _FILE_HEADER.unpack_from(data)[:2] != _MAGIC:
        return
    parts: list[bytes] = []
    for kind, chunk in _chunks(data):
        if kind in (_FULL, _FIRST):
            parts = []
        parts.append(chunk)
        if kind in (_FULL, _LAST):
            yield b"".join(parts)


def _chunks(data: bytes) -> Iterator[tuple[int, bytes]]:
    # The first block counts the file's header.
    at = _FILE_HEADER.size
    while at + _CHUNK_HEADER.size <= len(data):
        left = _BLOCK_BYTES - at % _BLOCK_BYTES
        if left < _CHUNK_HEADER.size:
            at += left
            continue
        crc, num_bytes, kind = _CHUNK_HEADER.unpack_from(data, at)
        at += _CHUNK_HEADER.size
        chunk = data[at : at + num_bytes]
        if not _FULL <= kind <= _LAST or zlib.crc32(bytes([kind]) + chunk) != crc:
            return
        at += num_bytes
        yield kind, chunk
