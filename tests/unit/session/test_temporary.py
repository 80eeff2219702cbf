from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from phaseline.session.temporary import libraries_in_own_folder, own_temporary_folder
from unit.session.conftest import StartPython, first_line

HOLD = """
import sys, tempfile
from pathlib import Path
from phaseline.session.temporary import libraries_in_own_folder
with libraries_in_own_folder() as folder:
    Path(tempfile.mkdtemp(suffix="library"), "file").write_text("left")
    print(folder, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder, for this test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_folder_is_gone_at_the_end_and_libraries_use_it_meanwhile(base: Path) -> None:
    with libraries_in_own_folder() as folder:
        assert folder.parent == base
        made = Path(tempfile.mkdtemp())
        assert made.parent == folder
        assert os.environ["TMPDIR"] == str(folder)
        # What a process makes that this one starts lies beside it, and not in it.
        with own_temporary_folder() as other:
            assert other.parent == base
    assert tempfile.gettempdir() == str(base)
    assert list(base.iterdir()) == []


def test_next_start_removes_what_a_killed_process_left_and_nothing_else(
    base: Path, start_python: StartPython
) -> None:
    killed, alive = start_python(HOLD), start_python(HOLD)
    left, kept = Path(first_line(killed)), Path(first_line(alive))
    killed.kill()
    killed.wait()
    host, boot, pids, pid, start, _ = left.name.removeprefix("phaseline-").split("-")
    elsewhere = base / f"phaseline-{'0' * 8}-{boot}-{pids}-{pid}-{start}-a"
    container = base / f"phaseline-{host}-{boot}-{'0' * 8}-{pid}-{start}-a"
    before_boot = base / f"phaseline-{host}-{'0' * 8}-{pids}-{pid}-{start}-a"
    others = [base / "phaseline-abc", base / "tmp1", elsewhere, container]
    for path in (*others, before_boot):
        path.mkdir()
    link = base / f"phaseline-{host}-{boot}-{pids}-{pid}-{start}-link"
    link.symlink_to(base / "tmp1")
    with own_temporary_folder() as own:
        assert sorted(base.iterdir()) == sorted([*others, link, kept, own])
    assert (kept / next(kept.iterdir()).name / "file").read_text() == "left"
