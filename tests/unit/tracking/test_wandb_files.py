from __future__ import annotations

import struct
import zlib
from pathlib import Path

from phaseline.tracking.wandb_files import read_wandb_file

BLOCK = 32768


def _write(path: Path, payloads: list[bytes]) -> bytes:
    """Writes the format from its description: chunks that fill blocks, types 1 to 4."""
    data = bytearray(struct.pack("<4sHB", b":W&B", 0xBEE1, 0))
    for payload in payloads:
        rest, is_first = payload, True
        while is_first or rest:
            left = BLOCK - len(data) % BLOCK
            if left < 7:
                data += bytes(left)
                left = BLOCK
            chunk, rest = rest[: left - 7], rest[left - 7 :]
            kind = (1 if is_first else 4) if not rest else (2 if is_first else 3)
            is_first = False
            data += struct.pack("<IHB", zlib.crc32(bytes([kind]) + chunk), len(chunk), kind) + chunk
    path.write_bytes(data)
    return bytes(data)


def test_read_wandb_file_joins_chunks_when_records_span_blocks(tmp_path: Path) -> None:
    path = tmp_path / "run.wandb"
    payloads = [b"a" * 100, b"b" * (3 * BLOCK), b"", b"c" * (BLOCK - 300), b"d" * 500]
    _write(path, payloads)
    assert list(read_wandb_file(path)) == payloads


def test_read_wandb_file_pads_when_a_block_has_no_room_for_a_header(tmp_path: Path) -> None:
    path = tmp_path / "run.wandb"
    payloads = [b"a" * (BLOCK - 7 - 7 - 3), b"b" * 10]
    _write(path, payloads)
    assert list(read_wandb_file(path)) == payloads


def test_read_wandb_file_stops_when_the_end_is_torn_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "run.wandb"
    payloads = [b"a" * 100, b"b" * (2 * BLOCK), b"c" * 50]
    data = _write(path, payloads)
    path.write_bytes(data[:-1])
    assert list(read_wandb_file(path)) == payloads[:2]
    path.write_bytes(data[: BLOCK + 10])
    assert list(read_wandb_file(path)) == payloads[:1]
    damaged = bytearray(data)
    damaged[-5] ^= 1
    path.write_bytes(damaged)
    assert list(read_wandb_file(path)) == payloads[:2]
    # Space that was reserved but never written.
    path.write_bytes(data + bytes(4000))
    assert list(read_wandb_file(path)) == payloads


def test_read_wandb_file_yields_nothing_when_it_is_another_file(tmp_path: Path) -> None:
    path = tmp_path / "run.wandb"
    for content in (b"", b":W&", b"something else altogether"):
        path.write_bytes(content)
        assert list(read_wandb_file(path)) == []
