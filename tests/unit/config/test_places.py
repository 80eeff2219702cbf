from __future__ import annotations

from pathlib import Path

import pytest

from phaseline.config.places import Places, fixed_part, located, looking_in
from phaseline.data.sources.paths import list_files


def takes_all(_path: str) -> bool:
    return True


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with nothing in it, beside one that has files."""
    for name in ("project/corpus/a.txt", "project/corpus/deep/b.txt", "moved/a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("corpus/*.txt", "corpus"),
        ("/data/**/x[0-9].txt", "/data"),
        ("./corpus/a.txt", "./corpus/a.txt"),
        ("*.txt", "."),
    ],
)
def test_fixed_part_ends_before_the_first_pattern(text: str, part: str) -> None:
    assert fixed_part(text) == part


def test_path_stays_as_it_is_written_when_nothing_is_said_of_it(folder: Path) -> None:
    for text in ("./corpus//a.txt", "/absolute/x", "gone"):
        assert located(text) == text


def test_relative_path_begins_in_the_first_folder_that_has_it(folder: Path) -> None:
    with looking_in(Places(folders=(folder / "nowhere", folder / "project"))):
        assert located("corpus/*.txt") == str(folder / "project" / "corpus" / "*.txt")
        assert located("gone.txt") == "gone.txt"
    assert located("corpus/*.txt") == "corpus/*.txt"


def test_moved_path_takes_what_is_below_it_along(folder: Path) -> None:
    with looking_in(Places(moved={"corpus": "/new/place", "/old/base": "/new/base"})):
        assert located("corpus") == "/new/place"
        assert located("corpus/deep/*.txt") == "/new/place/deep/*.txt"
        assert located("corpus2/a") == "corpus2/a"
        assert located("/old/base/config.json") == "/new/base/config.json"


def test_home_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert located("~/models/base") == "/somewhere/models/base"


@pytest.mark.parametrize("path", ["corpus", "corpus/**/*.txt", "corpus/*.txt", "corpus/a.txt"])
def test_files_keep_the_names_that_their_paths_give_them(folder: Path, path: str) -> None:
    with pytest.MonkeyPatch.context() as there:
        there.chdir(folder / "project")
        expected = list_files("files", [path], takes_all)
    with looking_in(Places(folders=(folder / "project",))):
        assert list_files("files", [path], takes_all) == expected
    assert expected[0] == "corpus/a.txt"
    (folder / "project" / "corpus").rename(folder / "new")
    with looking_in(Places(moved={"corpus": str(folder / "new")})):
        assert list_files("files", [path], takes_all) == expected
        assert Path(located(expected[-1])).read_text().startswith("project/corpus/")
