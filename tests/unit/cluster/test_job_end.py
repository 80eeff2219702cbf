from __future__ import annotations

import pytest

from phaseline.cluster.causes import CANCELLED, PREEMPTED, TIME_LIMIT
from phaseline.cluster.job_end import JobEnd, Next, decide
from phaseline.cluster.verdict import RESUME, Verdict
from phaseline.errors import ExitCode


def decided(code: ExitCode, cause: str = "", **facts: bool) -> JobEnd:
    defaults = {
        "was_terminated": False,
        "asked_by_person": False,
        "may_requeue": True,
        "is_chained": False,
    }
    verdict = Verdict(code, f"It ended.\n{RESUME}")
    return decide(verdict, cause, **{**defaults, **facts})


@pytest.mark.parametrize("code", list(ExitCode))
def test_only_what_another_start_can_change_is_started_again(code: ExitCode) -> None:
    is_open = code in (ExitCode.FAILED, ExitCode.STOPPED)
    assert decided(code).next is (Next.REQUEUE if is_open else Next.OVER)
    assert decided(code, is_chained=True).next is (Next.CHAIN if is_open else Next.OVER)
    assert decided(code, may_requeue=False).next is Next.OVER


def test_job_is_over_when_somebody_asked_the_session_to_stop() -> None:
    assert decided(ExitCode.STOPPED, asked_by_person=True).next is Next.OVER


def test_job_is_over_when_it_was_cancelled() -> None:
    end = decided(ExitCode.STOPPED, f"{CANCELLED}, SIGTERM", was_terminated=True)
    assert end.next is Next.OVER
    assert CANCELLED in end.message
    assert RESUME in end.message
    assert (
        decided(ExitCode.STOPPED, CANCELLED, was_terminated=True, is_chained=True).next is Next.OVER
    )


@pytest.mark.parametrize(
    ("cause", "following"),
    [("node failure: node2", Next.SLURM), (TIME_LIMIT, Next.REQUEUE)],
)
def test_slurm_requeues_by_itself_all_but_a_job_that_is_out_of_time(
    cause: str, following: Next
) -> None:
    assert decided(ExitCode.FAILED, cause, was_terminated=True).next is following


def test_person_is_not_told_to_run_again_what_runs_again_by_itself() -> None:
    end = decided(ExitCode.STOPPED, PREEMPTED)
    assert RESUME not in end.message
    assert PREEMPTED in end.message
    assert RESUME in decided(ExitCode.STOPPED, may_requeue=False).message
