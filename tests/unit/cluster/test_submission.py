from __future__ import annotations

from pathlib import Path

import pytest

from phaseline.cluster.submission import (
    Submission,
    SubmissionError,
    _environment,
    submit_jobs,
)
from phaseline.config.cluster_section import ClusterSection
from unit.cluster.commands import put_command

LIMIT = "echo 'QOSMaxSubmitJobPerUserLimit' >&2; exit 1"


def chain(folder: Path) -> list[Submission]:
    return [Submission(folder / f"{idx}.sbatch", "#!/bin/sh\n", waits=idx > 0) for idx in range(3)]


def test_chain_that_is_refused_halfway_leaves_no_job_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = tmp_path / "bin"
    put_command(commands, monkeypatch, "sbatch", "echo 41", "echo 42", LIMIT)
    cancelled = put_command(commands, monkeypatch, "scancel", "exit 0")
    with pytest.raises(SubmissionError, match=r"QOSMax.*41, 42 had been submitted and were canc"):
        submit_jobs(chain(tmp_path), ClusterSection())
    assert cancelled.read_text() == "41 42\n"


def test_jobs_that_cannot_be_taken_back_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_command(tmp_path / "bin", monkeypatch, "sbatch", "echo 41", LIMIT)
    with pytest.raises(SubmissionError, match="could not be cancelled: scancel 41"):
        submit_jobs(chain(tmp_path), ClusterSection())


def test_sbatch_inherits_nothing_of_a_job_and_nothing_that_beats_the_script() -> None:
    variables = {
        "HOME": "/home/me",
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_JOB_ID": "3",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_RESTART_COUNT": "1",
        "SBATCH_ACCOUNT": "profile",
        "SBATCH_PARTITION": "profile",
        "SBATCH_NO_REQUEUE": "1",
    }
    cluster = ClusterSection.model_validate({"partition": "gpu"})
    assert _environment(cluster, variables) == {
        "HOME": "/home/me",
        "SLURM_CONF": "/etc/slurm.conf",
        # Nothing else says which.
        "SBATCH_ACCOUNT": "profile",
    }
