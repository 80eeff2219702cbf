"""Handing a session's jobs to SLURM."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from phaseline.cluster import slurm
from phaseline.cluster.script import build_script, logs_dir
from phaseline.config.loading import LoadedConfig
from phaseline.errors import PhaselineError
from phaseline.session.files import write_text


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
    loaded: LoadedConfig, *, overrides: Sequence[str], session_dir: Path | None
) -> list[Submission]:
    """The scripts of a session's jobs, in the order in which they run.

    Args:
        loaded: The valid configuration, overrides applied.
        overrides: The same overrides.
        session_dir: The session's directory; None leaves it to the configuration.
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
                line=line,
                is_chained=number + 1 < num_jobs,
            ).render(),
            waits=number > 0,
        )
        for number in range(num_jobs)
    ]


def submit_jobs(submissions: Sequence[Submission]) -> Iterator[str]:
    """Submits the scripts, each behind the one before, and yields their job ids.

    Raises:
        SubmissionError: SLURM refuses one, or is not here.
    """
    before = ""
    for submission in submissions:
        submission.file.parent.mkdir(parents=True, exist_ok=True)
        write_text(submission.file, submission.text)
        command = ["sbatch", "--parsable"]
        if submission.waits:
            # Whatever became of it: a failed node ends a job without an exit code.
            command.append(f"--dependency=afterany:{before}")
        before = _submit([*command, str(submission.file)])
        yield before


def _submit(command: Sequence[str]) -> str:
    answer = slurm.run_client(command)
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
