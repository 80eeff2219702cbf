from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from phaseline.cluster.refusal import Refusal, last_words, read_refusal
from phaseline.cluster.verdict import judge, newest_attempt
from phaseline.errors import ExitCode
from phaseline.session.attempts import (
    ErrorRecord,
    Outcome,
    take_attempt,
    write_error,
    write_outcome,
)
from phaseline.session.layout import AttemptLayout, SessionLayout


@pytest.fixture
def layout(tmp_path: Path) -> SessionLayout:
    return SessionLayout(tmp_path / "session")


def _attempt(layout: SessionLayout, code: ExitCode | None = None) -> AttemptLayout:
    attempt = take_attempt(layout)
    if code is not None:
        write_outcome(attempt, Outcome(code=code, reason="because", time=1.0))
    return attempt


def _error(*, consequence: bool = False) -> ErrorRecord:
    return ErrorRecord(
        rank=1,
        host="node7",
        phase="pretrain",
        step=120,
        kind="RuntimeError",
        message="it broke\nbadly",
        traceback="",
        consequence=consequence,
        time=1.0,
    )


def test_newest_attempt_is_zero_when_nothing_was_begun(layout: SessionLayout) -> None:
    assert newest_attempt(layout) == 0


@pytest.mark.parametrize("code", list(ExitCode))
def test_judge_passes_the_outcome_on(layout: SessionLayout, code: ExitCode) -> None:
    _attempt(layout, code)
    assert judge(layout, since=0).code == code


def test_judge_tells_how_to_go_on_when_the_session_was_stopped(layout: SessionLayout) -> None:
    _attempt(layout, ExitCode.STOPPED)
    message = judge(layout, since=0, stop_requested=True).message
    assert "Everything is saved: because" in message
    assert "Run the same command to resume." in message


def test_judge_ignores_outcomes_of_earlier_starts(layout: SessionLayout) -> None:
    _attempt(layout, ExitCode.FINISHED)
    verdict = judge(layout, since=1)
    assert verdict.code == ExitCode.FAILED
    assert "before they began an attempt" in verdict.message


def test_judge_says_stopped_when_the_stop_came_before_an_attempt(layout: SessionLayout) -> None:
    assert judge(layout, since=0, stop_requested=True).code == ExitCode.STOPPED


def test_judge_passes_the_refusal_on_when_no_attempt_was_begun(layout: SessionLayout) -> None:
    verdict = judge(layout, since=0, refusal=Refusal(ExitCode.USAGE, "held by job 7"))
    assert verdict.code == ExitCode.USAGE
    assert "held by job 7" in verdict.message


def test_judge_names_the_first_failing_rank_when_there_is_an_error(layout: SessionLayout) -> None:
    attempt = _attempt(layout)
    write_error(attempt, _error())
    checkpoint = layout.phase("pretrain").checkpoints_dir / "step-00000100.a0001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    verdict = judge(layout, since=0)
    assert verdict.code == ExitCode.FAILED
    assert "rank 1 on node7, pretrain step 120" in verdict.message
    assert "RuntimeError: it broke\n           badly" in verdict.message
    assert str(attempt.rank_log(1)) in verdict.message
    assert str(checkpoint) in verdict.message
    assert verdict.message.endswith("Run the same command to resume.")


def test_judge_says_that_another_rank_was_lost_when_the_error_is_a_consequence(
    layout: SessionLayout,
) -> None:
    write_error(_attempt(layout), _error(consequence=True))
    assert "lost another one" in judge(layout, since=0).message


def test_judge_says_killed_from_outside_when_no_rank_left_a_record(layout: SessionLayout) -> None:
    _attempt(layout)
    message = judge(layout, since=0).message
    assert "killed from outside" in message
    assert "no checkpoint yet" in message


def test_judge_shows_the_innermost_frames_when_there_is_an_error(layout: SessionLayout) -> None:
    frames = [f'  File "a.py", line {number}, in f\n    g({number})' for number in range(9)]
    text = "\n".join(["Traceback (most recent call last):", *frames, "RuntimeError: it broke"])
    write_error(_attempt(layout), replace(_error(), traceback=text))
    message = judge(layout, since=0).message
    assert 'File "a.py", line 8, in f' in message
    assert "line 5," not in message


def test_judge_fails_when_the_ranks_were_left_at_once(layout: SessionLayout) -> None:
    _attempt(layout)
    verdict = judge(layout, since=0, stop_requested=True, left_at_once=True)
    assert verdict.code == ExitCode.FAILED
    assert "Left at once" in verdict.message


def test_judge_lists_what_was_made_when_the_session_is_finished(layout: SessionLayout) -> None:
    _attempt(layout, ExitCode.FINISHED)
    layout.report_file.write_text("")
    export = layout.exports_dir / "instruct"
    export.mkdir(parents=True)
    message = judge(layout, since=0).message
    assert str(layout.report_file) in message
    assert str(export) in message


@pytest.mark.parametrize("text", ["", "{", "[]", '{"code": 9, "message": ""}', '{"code": 2}'])
def test_read_refusal_is_none_when_the_file_says_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "refusal"
    assert read_refusal(path) is None
    path.write_text(text)
    assert read_refusal(path) is None


def test_read_refusal_returns_what_the_main_rank_left(tmp_path: Path) -> None:
    path = tmp_path / "refusal"
    path.write_text('{"code": 2, "message": "busy"}')
    assert read_refusal(path) == Refusal(ExitCode.USAGE, "busy")


def test_verdict_names_no_checkpoint_that_is_half_written_or_was_put_aside(
    layout: SessionLayout,
) -> None:
    _attempt(layout, ExitCode.STOPPED)
    folder = layout.phase("only").checkpoints_dir
    names = ("step-00000005.a0001", "damaged-step-00000009.a0001", ".aside-step-00000010.a0001")
    for time_s, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        (folder / name / "manifest.json").write_text("{}")
        os.utime(folder / name / "manifest.json", (time_s, time_s))
    message = judge(layout, since=0).message
    assert str(folder / names[0]) in message
    (folder / names[0] / "manifest.json").unlink()
    assert "no checkpoint yet" in judge(layout, since=0).message


def test_judge_tells_what_ranks_could_not_record_in_their_attempt(
    layout: SessionLayout, tmp_path: Path
) -> None:
    attempt, elsewhere = _attempt(layout), last_words(tmp_path / "refusal")
    elsewhere.dir.mkdir()
    write_error(attempt, _error(consequence=True))
    write_error(elsewhere, replace(_error(), rank=0, kind="OSError", message="No space left: 'm'"))
    verdict = judge(layout, since=0, unrecorded=elsewhere)
    assert verdict.code == ExitCode.FAILED
    assert "OSError: No space left: 'm'" in verdict.message
    assert str(attempt.rank_log(0)) in verdict.message
    assert "lost another one" not in verdict.message
    # The session's directory may be gone altogether.
    gone = judge(layout, since=1, unrecorded=elsewhere)
    assert "The attempt failed." in gone.message
    assert "OSError: No space left: 'm'" in gone.message


def test_judge_takes_the_outcome_that_could_not_be_recorded(
    layout: SessionLayout, tmp_path: Path
) -> None:
    _attempt(layout)
    elsewhere = last_words(tmp_path / "refusal")
    elsewhere.dir.mkdir()
    write_outcome(elsewhere, Outcome(code=ExitCode.USAGE, reason="no such source", time=1.0))
    verdict = judge(layout, since=0, unrecorded=elsewhere)
    assert (verdict.code, "no such source" in verdict.message) == (ExitCode.USAGE, True)


FULL = """
import resource, sys
from pathlib import Path
from phaseline.cluster.verdict import judge
from phaseline.session.layout import SessionLayout
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
print(judge(SessionLayout(Path(sys.argv[1])), since=0).message)
"""


def test_judge_says_that_no_record_can_be_written_where_none_can(layout: SessionLayout) -> None:
    attempt = _attempt(layout)
    words = [sys.executable, "-c", FULL, str(layout.root)]
    told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
    assert f"none can be written: File too large: {attempt.dir}" in told
    assert "killed" not in told
    assert list(attempt.dir.iterdir()) == []
