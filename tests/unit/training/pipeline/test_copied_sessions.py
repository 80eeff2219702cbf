from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from phaseline.cli import main
from phaseline.errors import ExitCode, UsageError
from phaseline.session.identity import SessionIdentity, load_identity
from phaseline.session.layout import SessionLayout
from unit.training.pipeline.sessions import configure, open_session, publish

HOLD = """
import sys
from pathlib import Path
from phaseline.session.layout import SessionLayout
from phaseline.session.lease import Lease
lease = Lease.acquire(SessionLayout(Path(sys.argv[1])))
print("held", flush=True)
sys.stdin.readline()
sys.exit(lease.is_lost())
"""


@pytest.fixture
def copied(tmp_path: Path) -> SessionLayout:
    """The copy, at `session`, of a session that lies at `first`."""
    open_session(configure(tmp_path)).end(ExitCode.STOPPED, "a test")
    publish(SessionLayout(tmp_path / "session"), "first", 5, 1)
    (tmp_path / "session").rename(tmp_path / "first")
    identity = identity_at(tmp_path / "first")
    assert identity.place == str(tmp_path / "session")
    path = tmp_path / "first" / "session.json"
    path.write_text(path.read_text().replace(identity.place, str(tmp_path / "first")))
    shutil.copytree(tmp_path / "first", tmp_path / "session")
    return SessionLayout(tmp_path / "session")


def identity_at(folder: Path) -> SessionIdentity:
    identity = load_identity(SessionLayout(folder))
    assert identity is not None
    return identity


def call(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main([*map(str, words)])
    return int(end.value.code or 0)


def test_copy_is_refused_before_anything_is_written_while_its_original_is_there(
    tmp_path: Path, copied: SessionLayout
) -> None:
    before = sorted(copied.root.rglob("*"))
    with pytest.raises(UsageError, match=r"session is a copy of the session at .*first, which"):
        open_session(configure(tmp_path))
    assert sorted(copied.root.rglob("*")) == before


@pytest.mark.parametrize("words", [("validate", "FILE", "--session"), ("sync",), ("stop",)])
def test_command_that_would_take_a_copy_for_its_original_is_refused(
    tmp_path: Path,
    copied: SessionLayout,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
) -> None:
    configure(tmp_path)
    file = str(tmp_path / "session.yaml")
    call_words = [file if word == "FILE" else word for word in words]
    assert call(*call_words, copied.root) == ExitCode.USAGE
    assert "session is a copy of the session at" in capsys.readouterr().err
    assert call("branch", copied.root) == 0


def test_folder_that_was_copied_while_its_original_runs_is_made_a_session_of_its_own(
    tmp_path: Path, copied: SessionLayout
) -> None:
    shutil.rmtree(copied.root)
    command = [sys.executable, "-c", HOLD, str(tmp_path / "first")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        shutil.copytree(tmp_path / "first", copied.root)
        assert call("branch", copied.root) == 0
        open_session(configure(tmp_path)).end(ExitCode.STOPPED, "a test")
        holder.communicate("\n")
        assert holder.returncode == 0


def test_branch_gives_a_copy_a_run_of_its_own_and_it_goes_on(
    tmp_path: Path, copied: SessionLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    original = identity_at(tmp_path / "first")
    told = copied.root / "wandb" / "told-online.json"
    told.parent.mkdir()
    told.write_text("[]")
    assert call("branch", copied.root) == 0
    assert not told.exists()  # of the original's run
    assert "is a session of its own now" in capsys.readouterr().out
    mine = identity_at(copied.root)
    assert mine.wandb_id != original.wandb_id
    assert (mine.id, mine.place) == (original.id, str(copied.root))
    assert identity_at(tmp_path / "first") == original
    session = open_session(configure(tmp_path))
    assert session.adopted.resumed_from == "phases/first/run-1/checkpoints/step-00000005.a0001"
    session.end(ExitCode.STOPPED, "a test")
    assert call("branch", copied.root) == ExitCode.USAGE
    assert "is no copy of another session that is still there" in capsys.readouterr().err


def test_moved_session_and_one_whose_original_is_gone_go_on(
    tmp_path: Path, copied: SessionLayout
) -> None:
    shutil.rmtree(tmp_path / "first")
    open_session(configure(tmp_path)).end(ExitCode.STOPPED, "a test")
    assert identity_at(copied.root).place == str(copied.root)


@pytest.mark.parametrize("place", ["", "relative", "/", "\\u0000", "/proc/self/mem", "x" * 5000])
def test_place_that_is_none_is_no_original(
    tmp_path: Path, copied: SessionLayout, place: str
) -> None:
    content = json.loads(copied.session_file.read_text())
    content["place"] = place.replace("\\u0000", "\0")
    copied.session_file.write_text(json.dumps(content))
    open_session(configure(tmp_path)).end(ExitCode.STOPPED, "a test")
