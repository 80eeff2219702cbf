from __future__ import annotations

import os
from pathlib import Path

import pytest

from phaseline.data import file_digests
from phaseline.data.file_digests import digest_files


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path in paths:
        path.write_text(f"text of {path.name}", encoding="utf-8")
    return [str(path) for path in paths]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were really read; all files count as settled."""
    read: list[str] = []
    digest = file_digests._digest
    monkeypatch.setattr(file_digests, "_SETTLED_AFTER_S", -1.0)

    def count(path: str) -> str:
        read.append(Path(path).name)
        return digest(path)

    monkeypatch.setattr(file_digests, "_digest", count)
    return read


def test_digests_are_remembered_when_nothing_changed(
    files: list[str], reads: list[str], tmp_path: Path
) -> None:
    first = digest_files(files, tmp_path / "memory")
    assert digest_files(files, tmp_path / "memory") == first
    assert reads == ["a.txt", "b.txt"]


def test_digest_changes_when_content_changes_and_size_and_time_do_not(
    files: list[str], reads: list[str], tmp_path: Path
) -> None:
    before = digest_files(files, tmp_path / "memory")
    stamps = Path(files[0]).stat()
    Path(files[0]).write_text("TEXT of a.txt", encoding="utf-8")
    # The change time moves in ticks; within one of them nothing could tell the two apart.
    while Path(files[0]).stat().st_ctime_ns == stamps.st_ctime_ns:
        os.utime(files[0], ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
    os.utime(files[0], ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
    after = digest_files(files, tmp_path / "memory")
    assert after[0] != before[0]
    assert after[1] == before[1]
    assert reads == ["a.txt", "b.txt", "a.txt"]


def test_digest_stays_when_only_the_time_changes(
    files: list[str], reads: list[str], tmp_path: Path
) -> None:
    before = digest_files(files, tmp_path / "memory")
    os.utime(files[0], (1, 1))
    assert digest_files(files, tmp_path / "memory") == before
    assert reads == ["a.txt", "b.txt", "a.txt"]


def test_digest_is_not_remembered_when_the_file_has_just_changed(
    files: list[str], tmp_path: Path
) -> None:
    digest_files(files, tmp_path / "memory")
    assert not (tmp_path / "memory").exists()


def test_digests_are_computed_again_when_the_memory_is_damaged(
    files: list[str], reads: list[str], tmp_path: Path
) -> None:
    first = digest_files(files, tmp_path / "memory")
    (memory,) = (tmp_path / "memory").iterdir()
    memory.write_text("{", encoding="utf-8")
    assert digest_files(files, tmp_path / "memory") == first
    assert len(reads) == 4
