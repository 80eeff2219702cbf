from __future__ import annotations

import errno
import fcntl
import json
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from phaseline.data.cache import MANIFEST, Cache
from phaseline.errors import DataError, ExitCode, StopRequestedError, UnreachableFileError

if TYPE_CHECKING:
    from pathlib import Path

# Builds one entry: says so, and is done once the file `go` is there. Forever if it never is.
_BUILDER = """
import sys, time
from pathlib import Path
from phaseline.data.cache import Cache

root, go = Path(sys.argv[1]), Path(sys.argv[2])

def build(folder):
    (folder / "content").write_text("half")
    print("building", flush=True)
    while not go.exists():
        time.sleep(0.01)
    (folder / "content").write_text("whole")

entry = Cache(root).obtain("kind", "name", build, lambda text: print(text, flush=True))
print((entry / "content").read_text(), flush=True)
"""


def test_cache_builds_an_entry_once_when_it_is_asked_for_twice(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "content").write_text("text", encoding="utf-8")

    first = cache.obtain("kind", "name", build, pytest.fail)
    assert cache.obtain("kind", "name", build, pytest.fail) == first == cache.find("kind", "name")
    assert len(built) == 1
    assert (first / "content").read_text(encoding="utf-8") == "text"


def test_cache_leaves_nothing_when_building_fails(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "content").write_text("half", encoding="utf-8")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        cache.obtain("kind", "name", fail, pytest.fail)
    assert cache.find("kind", "name") is None
    assert [path.name for path in (tmp_path / "kind").iterdir()] == ["name.lock"]


@pytest.mark.parametrize("damage", ["truncated", "removed", "manifest"])
def test_cache_builds_again_when_an_entry_is_damaged(tmp_path: Path, damage: str) -> None:
    cache = Cache(tmp_path)
    entry = cache.obtain("kind", "name", _write_content, pytest.fail)
    if damage == "truncated":
        (entry / "content").write_text("wh", encoding="utf-8")
    elif damage == "removed":
        (entry / "content").unlink()
    else:
        (entry / MANIFEST).write_text('{"files"', encoding="utf-8")
    assert cache.find("kind", "name") is None
    assert cache.obtain("kind", "name", _write_content, pytest.fail) == entry
    assert (entry / "content").read_text(encoding="utf-8") == "whole"
    assert {path.name for path in entry.parent.iterdir()} == {"name", "name.lock"}


def test_cache_names_every_file_when_an_entry_is_complete(tmp_path: Path) -> None:
    entry = Cache(tmp_path).obtain("kind", "name", _write_content, pytest.fail)
    manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
    assert {name: file["size"] for name, file in manifest["files"].items()} == {"content": 5}


def test_cache_lets_others_wait_when_one_process_builds(tmp_path: Path) -> None:
    go = tmp_path / "go"
    worker = _start_builder(tmp_path, go)
    assert _line(worker) == "building"
    others = [_start_builder(tmp_path, go) for _ in range(2)]
    for other in others:
        assert _line(other) == "waiting for another process that prepares kind name"
    go.touch()
    for process in (worker, *others):
        assert process.communicate()[0].splitlines() == ["whole"]


def test_cache_lets_a_process_give_up_while_it_waits_for_another(tmp_path: Path) -> None:
    worker = _start_builder(tmp_path, tmp_path / "go")
    assert _line(worker) == "building"
    said: list[str] = []

    def proceed() -> None:
        if len(said) > 1:
            raise StopRequestedError("given up")
        said.append("waits")

    with pytest.raises(StopRequestedError, match="given up"):
        Cache(tmp_path).obtain("kind", "name", _write_content, said.append, proceed)
    assert said == ["waiting for another process that prepares kind name", "waits"]
    (tmp_path / "go").touch()
    assert worker.communicate()[0].splitlines() == ["whole"]


def test_cache_starts_afresh_when_a_builder_was_killed(tmp_path: Path) -> None:
    killed = _start_builder(tmp_path, tmp_path / "never")
    assert _line(killed) == "building"
    killed.kill()
    killed.communicate()
    assert Cache(tmp_path).find("kind", "name") is None
    entry = Cache(tmp_path).obtain("kind", "name", _write_content, pytest.fail)
    assert (entry / "content").read_text(encoding="utf-8") == "whole"
    assert {path.name for path in entry.parent.iterdir()} == {"name", "name.lock"}


def test_cache_takes_the_first_when_two_build_without_working_locks(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def build_while_another_finishes(folder: Path) -> None:
        (folder / "content").write_text("later", encoding="utf-8")
        other = tmp_path / "other"
        first = Cache(other).obtain("kind", "name", _write_content, pytest.fail)
        first.rename(folder.parent / "name")

    entry = cache.obtain("kind", "name", build_while_another_finishes, pytest.fail)
    assert (entry / "content").read_text(encoding="utf-8") == "whole"


def test_cache_builds_without_a_lock_when_the_file_system_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    at_work = tmp_path / "kind" / f".name-{socket.gethostname()}-1-another"
    at_work.mkdir(parents=True)
    entry = Cache(tmp_path).obtain("kind", "name", _write_content, pytest.fail)
    assert (entry / "content").read_text(encoding="utf-8") == "whole"
    assert at_work.exists()


def test_cache_says_how_to_move_it_when_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written.*PHASELINE_CACHE"):
        Cache(tmp_path / "file").obtain("kind", "name", _write_content, pytest.fail)


def test_cache_of_user_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHASELINE_CACHE", str(tmp_path / "mine"))
    assert Cache.of_user().root == tmp_path / "mine"
    monkeypatch.delenv("PHASELINE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Cache.of_user().root == tmp_path / ".cache" / "phaseline"


def _write_content(folder: Path) -> None:
    (folder / "content").write_text("whole", encoding="utf-8")


def _start_builder(root: Path, go: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _BUILDER, str(root), str(go)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE])
def test_cache_that_is_refused_for_a_while_is_worth_another_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: object, *_: object, **__: object) -> None:
        raise OSError(number, "as a full disk", str(path))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(UnreachableFileError, match="cannot be read or written now") as told:
        Cache(tmp_path / "cache").obtain("kind", "name", _write_content, pytest.fail)
    assert told.value.exit_code is ExitCode.FAILED


@pytest.mark.parametrize("is_link", [True, False])
def test_cache_puts_aside_what_is_no_folder_in_an_entrys_place(
    tmp_path: Path, is_link: bool
) -> None:
    cache = Cache(tmp_path)
    entry = cache.obtain("kind", "name", _write_content, lambda _: None)
    shutil.rmtree(entry)
    if is_link:
        entry.symlink_to(tmp_path / "nowhere")
    else:
        entry.write_text("a file")
    assert cache.obtain("kind", "name", _write_content, lambda _: None) == entry
    assert cache.find("kind", "name") == entry
    assert not entry.is_symlink()
    assert not list(entry.parent.glob("*-damaged"))
