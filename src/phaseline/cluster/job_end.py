"""What becomes of a job when its ranks have ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from phaseline.cluster.causes import CANCELLED, TIME_LIMIT
from phaseline.cluster.verdict import RESUME, Verdict
from phaseline.errors import ExitCode


class Next(Enum):
    """What follows a start of a job."""

    OVER = "over"
    """Nothing: the session is finished, or another start would end the same way."""
    REQUEUE = "requeue"
    """The job asks SLURM to start it again."""
    CHAIN = "chain"
    """The job that waits behind this one goes on."""
    SLURM = "slurm"
    """SLURM starts the job again by itself."""


@dataclass(frozen=True)
class JobEnd:
    """How a start of a job ended.

    Attributes:
        code: The job's exit code.
        message: For people.
        next: What follows.
    """

    code: ExitCode
    message: str
    next: Next


def decide(
    verdict: Verdict,
    cause: str,
    *,
    was_terminated: bool,
    asked_by_person: bool,
    may_requeue: bool,
    is_chained: bool,
) -> JobEnd:
    """Says what follows. Only what another start can change is started again.

    Args:
        verdict: How the ranks ended.
        cause: Why SLURM ended them, if it did and says so.
        was_terminated: Whether SLURM is ending the whole job, this process included.
        asked_by_person: Whether somebody asked the session itself to stop.
        may_requeue: Whether the job may ask to be started again.
        is_chained: Whether another job waits behind this one.
    """
    is_open = verdict.code in (ExitCode.FAILED, ExitCode.STOPPED)
    if not is_open or asked_by_person:
        return JobEnd(verdict.code, verdict.message, Next.OVER)
    message = f"{verdict.message}\nWhat SLURM says: {cause}." if cause else verdict.message
    if was_terminated and cause.startswith(CANCELLED):
        return JobEnd(verdict.code, message, Next.OVER)
    if is_chained or may_requeue:
        message = message.replace(f"\n{RESUME}", "")  # it is done by itself
    if is_chained:
        return JobEnd(verdict.code, message, Next.CHAIN)
    if was_terminated and not cause.startswith(TIME_LIMIT):
        # A failed node, or somebody's `scontrol requeue`: it is done already.
        return JobEnd(verdict.code, message, Next.SLURM)
    return JobEnd(verdict.code, message, Next.REQUEUE if may_requeue else Next.OVER)
