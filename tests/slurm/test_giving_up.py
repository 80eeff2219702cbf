"""What another start would not change is not started again; where no requeue is, a chain is."""

from __future__ import annotations

from pathlib import Path

import pytest

from phaseline.errors import ExitCode
from slurm.conftest import Smooth
from slurm.jobs import Submitter, require_equal


@pytest.mark.in_ci
def test_crash_loop_ends_with_what_each_attempt_died_of(
    submitter: Submitter, tmp_path: Path
) -> None:
    # Before the first checkpoint, which is at step 6.
    [job] = submitter.submit(tmp_path / "session", step_s=0, fail_at="0:4")
    assert job.wait_end() == ExitCode.NO_PROGRESS, job.report()
    assert job.layout.attempt_numbers() == [1, 2, 3]
    assert "3 starts in a row left no new checkpoint" in job.output
    for number in (1, 2, 3):
        error = job.error(number)
        assert error is not None
        assert (error.rank, error.phase, error.step) == (0, "text", 4)
        death = f"start {number}: attempt {number}, rank 0 on {error.host}, text step 4"
        assert death in job.output
    outcome = job.outcome(3)
    assert outcome is not None
    assert outcome.code is ExitCode.NO_PROGRESS


def test_fault_of_the_data_is_not_tried_again(submitter: Submitter, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "empty.txt").write_text("")
    source = f"{{source: text_files, arguments: {{paths: ['{texts}/*.txt']}}}}"
    [job] = submitter.submit(
        tmp_path / "session",
        *("-o", "phases[text].data.source=text_files"),
        *("-o", f"phases[text].data.arguments={{paths: ['{texts}/*.txt']}}"),
    )
    assert source
    assert job.wait_end() == ExitCode.USAGE, job.report()
    assert [start.restart for start in job.starts()] == [0]
    assert job.starts()[0].is_last


def test_session_that_is_in_use_is_refused_by_its_lease(
    submitter: Submitter, tmp_path: Path
) -> None:
    session = tmp_path / "session"
    # At the same time, so that neither can know of the other when it is submitted.
    [first], [second] = (submitter.submit(session, step_s=0.4) for _ in range(2))
    codes = sorted([first.wait_end(), second.wait_end()])
    assert codes == [0, ExitCode.USAGE], first.report()
    assert "is in use by" in first.output + second.output
    assert first.layout.attempt_numbers() == [1]


def test_chained_jobs_take_over_where_none_is_requeued(
    submitter: Submitter, smooth: Smooth, tmp_path: Path
) -> None:
    jobs = submitter.submit(tmp_path / "session", "--chain", "3", "--nodes", "2")
    first, second, third = jobs
    first.wait_for_step(15)
    first.signal_batch("USR1")
    assert first.wait_end() == ExitCode.STOPPED
    assert second.wait_end() == 0, second.report()
    assert third.wait_end() == 0, third.report()
    require_equal(smooth(2), second, "text")
    assert second.layout.attempt_numbers() == [1, 2]
    assert "has nothing to add" in third.output
