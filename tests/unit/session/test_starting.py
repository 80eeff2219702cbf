from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from phaseline.session.layout import SessionLayout
from phaseline.session.starting import announced, is_starting

HOLDER = """
import sys, time
from pathlib import Path
from phaseline.session.layout import SessionLayout
from phaseline.session.starting import announced
with announced(SessionLayout(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def layout(tmp_path: Path) -> SessionLayout:
    return SessionLayout(tmp_path / "runs" / "session")


def test_start_is_announced_as_long_as_it_lasts_and_leaves_nothing(layout: SessionLayout) -> None:
    assert not is_starting(layout)
    with announced(layout):
        assert is_starting(layout)
    assert not layout.root.exists()
    layout.root.mkdir()
    (layout.root / "kept").touch()
    with announced(layout):
        assert is_starting(layout)
    assert [path.name for path in layout.root.iterdir()] == ["kept"]


def test_start_whose_process_was_killed_is_none(layout: SessionLayout) -> None:
    command = [sys.executable, "-c", HOLDER, str(layout.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_starting(layout)
        holder.kill()
    assert layout.launcher_file.exists()
    assert not is_starting(layout)


def test_start_goes_on_where_it_cannot_be_announced(layout: SessionLayout) -> None:
    layout.root.parent.mkdir(parents=True)
    layout.root.touch()
    with announced(layout):
        assert not is_starting(layout)
    assert layout.root.is_file()


def test_start_that_another_launcher_has_announced_stays_announced(layout: SessionLayout) -> None:
    command = [sys.executable, "-c", HOLDER, str(layout.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with announced(layout):
            assert is_starting(layout)
        assert is_starting(layout)
        holder.kill()


def test_start_of_another_launcher_is_not_taken_back(layout: SessionLayout) -> None:
    with announced(layout):
        other = json.loads(layout.launcher_file.read_text())
        other["owner"]["pid"] = os.getppid()
        layout.launcher_file.write_text(json.dumps(other))
    assert layout.launcher_file.exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"owner": 1}'])
def test_damaged_announcement_announces_nothing(layout: SessionLayout, text: str) -> None:
    layout.root.mkdir(parents=True)
    layout.launcher_file.write_text(text)
    assert not is_starting(layout)
