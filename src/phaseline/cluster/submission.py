"""Handing a session's jobs to SLURM."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from phaseline.cluster import slurm
from phaseline.cluster.script import build_script, logs_dir
from phaseline.config.cluster_section import ClusterSection
from phaseline.config.loading import LoadedConfig
from phaseline.errors import PhaselineError
from phaseline.session.files import write_text

_SBATCH_VARIABLES = {
    "account": ("SBATCH_ACCOUNT",),
    "partition": ("SBATCH_PARTITION",),
    "qos": ("SBATCH_QOS",),
    "time": ("SBATCH_TIMELIMIT",),
    "constraint": ("SBATCH_CONSTRAINT",),
    "requeue": ("SBATCH_REQUEUE", "SBATCH_NO_REQUEUE"),
    "signal_lead_s": ("SBATCH_SIGNAL",),
}
"""sbatch takes these before what the script asks for, so one of a login profile would win."""
_OF_THE_SITE = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")


class SubmissionError(PhaselineError):
    """SLURM did not take the job."""


@dataclass(frozen=True)
class Submission:
    """One batch script, and the file that it is kept in.

    Attributes:
        file: Where it is kept.
        text: The script.
        waits: Whether it waits for the one before.
    """

    file: Path
    text: str
    waits: bool


def plan_submission(
    loaded: LoadedConfig,
    *,
    overrides: Sequence[str],
    session_dir: Path | None,
    accept_changes: Sequence[str] = (),
) -> list[Submission]:
    """The scripts of a session's jobs, in the order in which they run.

    Args:
        loaded: The valid configuration, overrides applied.
        overrides: The same overrides.
        session_dir: The session's directory; None leaves it to the configuration.
        accept_changes: Changes of a session that goes on, each with its new value, so that a job
            that runs again, or goes on after another, need not find one.
    """
    num_jobs = loaded.config.cluster.chain
    # All jobs of a chain have it, and the jobs of no other submission.
    line = uuid.uuid4().hex[:12] if num_jobs > 1 else ""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return [
        Submission(
            file=logs_dir(loaded) / f"job-{stamp}{f'-{number + 1}' if num_jobs > 1 else ''}.sbatch",
            text=build_script(
                loaded,
                overrides=overrides,
                session_dir=session_dir,
                accept_changes=accept_changes,
                line=line,
                is_chained=number + 1 < num_jobs,
            ).render(),
            waits=number > 0,
        )
        for number in range(num_jobs)
    ]


def submit_jobs(submissions: Sequence[Submission], cluster: ClusterSection) -> list[str]:
    """Submits the scripts, each behind the one before, and returns their job ids.

    Args:
        submissions: What `plan_submission` planned.
        cluster: What they ask for.

    Raises:
        SubmissionError: SLURM refuses one, or is not here. Then none is left in the queue.
    """
    environment = _environment(cluster)
    numbers: list[str] = []
    for submission in submissions:
        submission.file.parent.mkdir(parents=True, exist_ok=True)
        write_text(submission.file, submission.text)
        command = ["sbatch", "--parsable"]
        if submission.waits:
            # Whatever became of it: a failed node ends a job without an exit code.
            command.append(f"--dependency=afterany:{numbers[-1]}")
        try:
            numbers.append(_submit([*command, str(submission.file)], environment))
        except SubmissionError as error:
            raise SubmissionError(f"{error}{_take_back(numbers)}") from error
    return numbers


def _take_back(numbers: Sequence[str]) -> str:
    """Cancels jobs of a chain that will not be whole; returns what to say of it."""
    if not numbers:
        return ""
    listed = ", ".join(numbers)
    answer = slurm.run_client(["scancel", *numbers])
    if answer is None or answer.returncode != 0:
        return (
            f" Of the chain, {listed} were submitted and could not be cancelled: scancel {listed}"
        )
    return f" Of the chain, {listed} had been submitted and were cancelled again."


def _environment(
    cluster: ClusterSection, variables: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """What sbatch inherits: nothing of a job that it is called in, or that beats the script."""
    given = {name for name in _SBATCH_VARIABLES if getattr(cluster, name) is not None}
    beating = {variable for name in given for variable in _SBATCH_VARIABLES[name]}
    return {
        name: value
        for name, value in variables.items()
        if name not in beating and (not name.startswith("SLURM_") or name in _OF_THE_SITE)
    }


def _submit(command: Sequence[str], environment: Mapping[str, str]) -> str:
    answer = slurm.run_client(command, environment=environment)
    if answer is None:
        raise SubmissionError(
            "sbatch cannot be run on this machine, or does not answer. Submit from a login node of "
            "the cluster; --dry-run shows the script anywhere."
        )
    number = re.match(r"\d+", answer.stdout)
    if answer.returncode != 0 or number is None:
        raise SubmissionError(
            f"SLURM refuses the job: {answer.stderr.strip() or answer.stdout.strip()}. What is "
            "asked for comes from the `cluster` section; --dry-run shows the script."
        )
    return number.group()
