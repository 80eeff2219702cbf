from __future__ import annotations

from pathlib import Path

import pytest

from phaseline.cli.job_status import gather_jobs
from phaseline.errors import ExitCode
from phaseline.session.jobs import JobStart, note_submitted, write_job_start
from phaseline.session.layout import SessionLayout
from unit.cluster.commands import put_command

UNKNOWN = "echo 'Invalid job id specified' >&2; exit 1"


def shown(job_id: str, state: str, reason: str = "None") -> str:
    return f"echo 'JobId={job_id} JobState={state} Reason={reason} Restarts=0 NodeList=(null)'"


def began(layout: SessionLayout, job_id: str, *, is_last: bool) -> None:
    start = JobStart(
        job_id=job_id,
        restart=0,
        line=job_id,
        nodes="node1",
        began=float(job_id),
        slot_ends=None,
        since=0,
        checkpoint=None,
    )
    write_job_start(layout, start.over(ExitCode.STOPPED, "", at=9e9, is_last=is_last))


@pytest.mark.parametrize(
    ("last", "is_last", "submitted", "answers", "told"),
    [
        pytest.param(
            "999", True, ["999", "1000"], [shown("1000", "PENDING", "Priority")],
            "job 1000 is PENDING (Priority)", id="a number with more digits is newer",
        ),
        pytest.param(
            "7", False, ["7"], [shown("7", "PENDING", "launch_failed_requeued_held")],
            "job 7 is PENDING (launch_failed_requeued_held); SLURM holds it until "
            "`scontrol release 7`", id="held",
        ),
        pytest.param(
            "100", True, ["99", "100"], [UNKNOWN],
            "job 100 ended with exit code 75", id="a number with fewer digits is older",
        ),
        pytest.param(
            "41", False, ["41", "42", "43"],
            [shown("41", "COMPLETED"), shown("42", "PENDING", "Dependency")],
            "job 42 is PENDING (Dependency)", id="the next of a chain waits",
        ),
        pytest.param(
            "41", False, ["41", "42"], [shown("41", "RUNNING")],
            "job 41 is RUNNING", id="the one at hand runs",
        ),
        pytest.param(
            "41", False, ["41", "42"], [shown("41", "NODE_FAIL"), UNKNOWN],
            "job 41 is NODE_FAIL", id="SLURM knows the one that waited no more",
        ),
    ],
)  # fmt: skip
def test_job_that_decides_is_told_of(
    last: str,
    is_last: bool,
    submitted: list[str],
    answers: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout = SessionLayout(tmp_path / "session")
    began(layout, last, is_last=is_last)
    note_submitted(layout, submitted)
    put_command(tmp_path / "bin", monkeypatch, "scontrol", *answers)
    assert gather_jobs(layout).told == told
