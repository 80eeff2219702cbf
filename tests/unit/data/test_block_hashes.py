"""Prepared data is compared with what was written before it is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from phaseline.data.block_hashes import BLOCK_BYTES, CheckedFile, hashes_file, write_hashes
from phaseline.data.cache import MANIFEST, Cache
from phaseline.errors import DamagedDataError, ExitCode

SIZE = 5 * BLOCK_BYTES + 123


def made(folder: Path, size: int = SIZE) -> Path:
    path = folder / "train.tokens"
    path.write_bytes(np.random.default_rng(3).integers(0, 256, size, np.uint8).tobytes())
    write_hashes(path)
    (folder / MANIFEST).write_text("{}")
    return path


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("place", [0, BLOCK_BYTES - 1, BLOCK_BYTES, SIZE - 1])
def test_flipped_bit_is_found_when_its_block_is_read_and_ends_the_entry(
    tmp_path: Path, place: int
) -> None:
    path = made(tmp_path)
    flip(path, place)
    file = CheckedFile(path, item_bytes=1)
    block = place // BLOCK_BYTES
    elsewhere = (block + 2) % 5 * BLOCK_BYTES
    file.require(elsewhere, elsewhere + 10)
    assert (tmp_path / MANIFEST).exists()
    match = rf"train\.tokens does not hold what was written, .* from byte {block * BLOCK_BYTES} on"
    with pytest.raises(DamagedDataError, match=match) as caught:
        file.require(place, place + 1)
    assert caught.value.exit_code is ExitCode.FAILED
    assert not (tmp_path / MANIFEST).exists()


def test_ranges_are_counted_in_items_behind_a_header(tmp_path: Path) -> None:
    path = made(tmp_path)
    flip(path, 2 * BLOCK_BYTES)
    # Items of 4 bytes, the first at byte 100: those before the third block, and the one across.
    before = (2 * BLOCK_BYTES - 100) // 4
    file = CheckedFile(path, item_bytes=4, offset=100)
    file.require(np.array([0, 5]), np.array([3, before]))
    with pytest.raises(DamagedDataError, match=f"from byte {2 * BLOCK_BYTES} on"):
        file.require(np.array([0, 5]), np.array([3, before + 1]))


def test_block_is_compared_once(tmp_path: Path) -> None:
    path = made(tmp_path)
    file = CheckedFile(path, item_bytes=1)
    file.require_all()
    # What is mapped changes with the file, and is not looked at again.
    flip(path, 7)
    file.require(0, SIZE)
    file.require_all()


def test_file_without_contents_needs_no_check(tmp_path: Path) -> None:
    path = made(tmp_path, size=0)
    file = CheckedFile(path, item_bytes=2)
    file.require_all()
    file.require(np.zeros(0, np.int64), np.zeros(0, np.int64))


def test_hashes_of_another_length_are_damage(tmp_path: Path) -> None:
    path = made(tmp_path)
    hashes_file(path).write_bytes(hashes_file(path).read_bytes()[:-8])
    with pytest.raises(DamagedDataError, match=r"train\.tokens does not hold"):
        CheckedFile(path, item_bytes=1)


def build(folder: Path) -> None:
    (folder / "small").write_bytes(b"small" * 100)
    (folder / "large").write_bytes(b"large" * 300_000)


@pytest.mark.parametrize("name", ["small", "small.xxh3", "large.xxh3", MANIFEST])
def test_entry_whose_small_files_are_damaged_is_made_anew(tmp_path: Path, name: str) -> None:
    cache = Cache(tmp_path)
    entry = cache.obtain("kind", "name", build, pytest.fail)
    whole = (entry / name).read_bytes()
    for damage in (b"", whole[: len(whole) // 2], b"\0" + whole[1:], b"[" * 100_000):
        (entry / name).write_bytes(damage)
        assert cache.find("kind", "name") is None
        assert cache.obtain("kind", "name", build, pytest.fail) == entry
        assert (entry / name).read_bytes() == whole


def test_large_file_is_read_whole_when_it_is_asked_for(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entry = cache.obtain("kind", "name", build, pytest.fail)
    assert cache.remove_damaged("kind", "name") is None
    flip(entry / "large", 1_000_000)
    assert cache.find("kind", "name") == entry
    assert cache.remove_damaged("kind", "name") == entry / "large"
    assert cache.find("kind", "name") is None
    assert cache.remove_damaged("kind", "name") is None


def test_entry_without_hashes_is_made_anew(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entry = tmp_path / "kind" / "name"
    entry.mkdir(parents=True)
    (entry / "small").write_bytes(b"small")
    (entry / MANIFEST).write_text('{"files": {"small": 5}}')
    assert cache.find("kind", "name") is None
