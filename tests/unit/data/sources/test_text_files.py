from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from phaseline.data.sources.text_files import TextFiles
from phaseline.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


def test_text_files_are_sorted_and_taken_once_when_patterns_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.txt").write_text("zwei ü", encoding="utf-8")
    (tmp_path / "a.txt").write_text("one", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    source = TextFiles(["**/*.txt", "a.txt"])
    found = [(document.id, document.text) for document in source.samples()]
    assert found == [("a.txt", "one"), ("in/b.txt", "zwei ü")]


def test_fingerprint_changes_when_a_text_or_a_name_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one", encoding="utf-8")
    fingerprints = {TextFiles([str(tmp_path / "*")]).fingerprint()}
    path.write_text("two", encoding="utf-8")
    fingerprints.add(TextFiles([str(tmp_path / "*")]).fingerprint())
    path.rename(tmp_path / "b.txt")
    fingerprints.add(TextFiles([str(tmp_path / "*")]).fingerprint())
    assert len(fingerprints) == 3


def test_text_files_are_refused_when_a_pattern_matches_none(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(DataError, match=r"\*\.txt', which matches no file"):
        TextFiles([str(tmp_path / "*.txt")])


@pytest.mark.parametrize("paths", ["a.txt", []])
def test_text_files_are_refused_when_paths_are_no_list(paths: list[str]) -> None:
    with pytest.raises(DataError, match="it must be a list of paths"):
        TextFiles(paths)


def test_text_file_is_refused_when_it_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"fine\xff")
    with pytest.raises(DataError, match=r"a\.txt of a text_files source is not UTF-8 \(byte 4\)"):
        list(TextFiles([str(tmp_path / "a.txt")]).samples())
