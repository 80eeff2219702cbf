"""The end of a job's time is read from SLURM, and everything is saved before any signal."""

from __future__ import annotations

import re
from pathlib import Path

from phaseline.errors import ExitCode
from phaseline.session.jobs import note_submitted
from phaseline.session.layout import SessionLayout
from slurm.conftest import Smooth
from slurm.jobs import Submitter, require_equal


def test_training_stops_before_the_warning_and_goes_on_in_the_next_start(
    submitter: Submitter, smooth: Smooth, tmp_path: Path
) -> None:
    # Five minutes, less 80 s for the warning and 60 s for two saves of a length not yet known:
    # the first save, at step 6, comes before, and shows how short saves are.
    options = ("--nodes", "2", "--time", "0:05:00", "-o", "cluster.signal_lead_s=20")
    [job] = submitter.submit(tmp_path / "session", *options, step_s=6.0)
    job.wait_for_step(3)
    shown = submitter.run("status", str(job.layout.root)).stdout
    assert re.search(rf"slurm   job {job.number} is RUNNING on node\S+, [34]m \d\ds left", shown)
    assert re.search(r"left    (\d+m )?\d+s of training", shown)
    assert re.search(r"text +training +\d+ of 40 +\d+% +\d\.\d{4} ", shown)

    assert job.wait_end(limit_s=400) == 0, job.report()
    require_equal(smooth(2), job, "text")
    outcome = job.outcome(1)
    assert outcome is not None
    assert outcome.code is ExitCode.STOPPED
    assert "the job's time ends in" in outcome.reason
    first, second = job.starts()
    assert first.slot_ends is not None
    # The warning may come 60 s before the 20 s that were asked for.
    assert outcome.time < first.slot_ends - 80
    assert "Asked to stop" not in job.output
    assert second.is_last


def test_status_shows_a_session_whose_job_still_waits(submitter: Submitter, tmp_path: Path) -> None:
    session = tmp_path / "runs" / "waits"
    command = ["sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true"]
    number = submitter.cluster.client(*command).strip()
    note_submitted(SessionLayout(session), [number])
    shown = submitter.run("status", str(tmp_path / "runs")).stdout
    assert re.search(rf"waits +submitted .* job {number} is PENDING \(JobHeldUser\)", shown)
