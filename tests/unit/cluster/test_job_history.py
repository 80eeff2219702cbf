from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from phaseline.cluster.job_history import JobHistory
from phaseline.cluster.slurm import JobPlace
from phaseline.errors import ExitCode
from phaseline.session.attempts import read_outcome, take_attempt
from phaseline.session.jobs import JobStart, write_job_start
from phaseline.session.layout import SessionLayout


@pytest.fixture
def layout(tmp_path: Path) -> SessionLayout:
    return SessionLayout(tmp_path / "session")


def add(
    layout: SessionLayout, job_id: str, restart: int = 0, *, line: str = "", is_last: bool = False
) -> JobStart:
    """A start that failed, and left no checkpoint."""
    start = JobStart(
        job_id=job_id,
        restart=restart,
        line=line or job_id,
        nodes="node1,node2",
        began=10.0 * int(job_id) + restart,
        slot_ends=None,
        since=0,
        checkpoint=None,
    )
    over = start.over(ExitCode.FAILED, "it broke", at=start.began + 1, is_last=is_last)
    write_job_start(layout, over)
    return over


def place(job_id: str, restart: int = 0) -> JobPlace:
    return JobPlace(job_id=job_id, restart=restart, nodes="node1", num_nodes=1, array_idx=None)


def test_chain_is_over_when_one_of_its_jobs_was_the_last(layout: SessionLayout) -> None:
    add(layout, "7", line="a", is_last=True)
    end = JobHistory(layout, line="a").last_word(place("8"))
    assert end is not None
    assert end.code is ExitCode.FAILED
    assert "Job 7 ended this line of jobs with exit code 1." in end.message
    assert JobHistory(layout, line="b").last_word(place("8")) is None


def test_job_that_somebody_starts_again_begins_to_count_anew(layout: SessionLayout) -> None:
    for restart in range(3):
        add(layout, "7", restart, is_last=restart == 2)
    history = JobHistory(layout, line="7")
    assert history.last_word(place("7", 3)) is None
    assert history.why_give_up(1) == ""
    add(layout, "7", 3)
    assert "job 7, start 4: it broke" in history.why_give_up(1)


def test_later_start_of_the_same_job_is_seen_and_that_of_another_is_not(
    layout: SessionLayout,
) -> None:
    history = JobHistory(layout, line="a")
    add(layout, "7", 1, line="a")
    assert history.has_later_start(place("7", 0))
    assert not history.has_later_start(place("7", 1))
    assert not history.has_later_start(place("6", 0))


def test_start_that_cannot_be_put_on_record_is_said_and_stops_nothing(
    layout: SessionLayout,
) -> None:
    start = add(layout, "7")
    layout.job_file("7", 0).unlink()
    layout.jobs_dir.rmdir()
    layout.jobs_dir.write_text("in the way")
    assert "cannot be written" in JobHistory(layout, line="7").note(start)


def test_starts_of_other_lines_do_not_count(layout: SessionLayout) -> None:
    for job_id in ("5", "6", "7"):
        add(layout, job_id)
    assert JobHistory(layout, line="7").why_give_up(2) == ""


def test_start_that_was_cut_off_is_closed_by_the_next_one(
    layout: SessionLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no SLURM here that could be asked
    cut_off = replace(add(layout, "7"), ended=None, code=None, cause="")
    write_job_start(layout, cut_off)
    history = JobHistory(layout, line="7")
    history.close_what_was_cut_off(place("7", 1))
    [closed] = history.starts()
    assert closed.ended is not None
    assert closed.cause == "ended by SLURM without notice"


def test_giving_up_is_the_outcome_of_an_attempt_that_left_none(layout: SessionLayout) -> None:
    attempt = take_attempt(layout)
    JobHistory(layout, line="7").record_giving_up("three in vain")
    outcome = read_outcome(attempt)
    assert outcome is not None
    assert (outcome.code, outcome.reason) == (ExitCode.NO_PROGRESS, "three in vain")
