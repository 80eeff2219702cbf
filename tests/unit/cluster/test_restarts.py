from __future__ import annotations

import sys
from pathlib import Path

import pytest

from phaseline.cluster import restarts
from phaseline.cluster.launch_command import LaunchCommand
from phaseline.cluster.restarts import launch_again
from phaseline.errors import ExitCode
from phaseline.session.layout import SessionLayout

# What a start leaves, by its number; a start whose plan has no code dies without a word.
RANKS = """
import sys, time
from pathlib import Path
from phaseline.errors import ExitCode
from phaseline.session.attempts import Outcome, take_attempt, write_outcome
from phaseline.session.layout import SessionLayout

layout, plan = SessionLayout(Path(sys.argv[1])), sys.argv[2].split(",")
attempt = take_attempt(layout)
code, _, saves = plan[attempt.number - 1].partition("+")
if saves:
    folder = layout.phase("text").checkpoints_dir / f"step-{attempt.number:08d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
if code:
    write_outcome(attempt, Outcome(ExitCode(int(code)), "as planned", time.time()))
"""


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "_PAUSE_S", 0.0)


def run(folder: Path, plan: str, *, max_restarts: int) -> tuple[ExitCode, list[int], str]:
    """Runs starts that end as planned; returns the code, the attempts, and what was said."""
    layout = SessionLayout(folder / "session")
    argv = [sys.executable, "-c", RANKS, str(layout.root), plan]
    said: list[str] = []
    code = launch_again(
        LaunchCommand(argv, {"PATH": "/usr/bin:/bin"}),
        layout,
        say=said.append,
        max_restarts=max_restarts,
        max_without_progress=3,
    )
    return code, layout.attempt_numbers(), "\n".join(said)


def test_failed_ranks_are_started_again_until_they_finish(tmp_path: Path) -> None:
    code, attempts, said = run(tmp_path, ",,0", max_restarts=5)
    assert (code, attempts) == (ExitCode.FINISHED, [1, 2, 3])
    assert "restart 2 of at most 5" in said


def test_restarts_end_where_they_were_allowed_to(tmp_path: Path) -> None:
    code, attempts, said = run(tmp_path, "+s,+s,+s,+s", max_restarts=2)
    assert (code, attempts) == (ExitCode.FAILED, [1, 2, 3])
    assert "Started 3 times, as --max-restarts 2 allows." in said


def test_starts_without_progress_are_given_up_before(tmp_path: Path) -> None:
    code, attempts, said = run(tmp_path, "+s,,,,,", max_restarts=9)
    assert (code, attempts) == (ExitCode.NO_PROGRESS, [1, 2, 3, 4])
    assert "3 starts in a row left no new checkpoint" in said
    assert "start 4: attempt 4" in said


@pytest.mark.parametrize("code", [0, 2, 3, 75])
def test_what_ended_on_purpose_is_not_started_again(tmp_path: Path, code: int) -> None:
    assert run(tmp_path, str(code), max_restarts=5)[:2] == (ExitCode(code), [1])


def test_nothing_is_started_again_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert run(tmp_path, ",,", max_restarts=0)[:2] == (ExitCode.FAILED, [1])
