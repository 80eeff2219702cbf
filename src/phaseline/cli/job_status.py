"""What SLURM and a session's records say of its jobs, for people."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from phaseline.cluster import slurm
from phaseline.cluster.slots import slots_needed, time_left
from phaseline.config.sections import Config
from phaseline.session.jobs import JobStart, list_job_starts, list_submitted
from phaseline.session.layout import SessionLayout
from phaseline.tracking.formatting import format_seconds

_OVER = frozenset(
    [
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "TIMEOUT",
    ]
)
"""States, as SLURM calls them, of a job that will not run again by itself."""


@dataclass(frozen=True)
class JobStatus:
    """How a session's jobs stand.

    Attributes:
        starts: Every start of a job, oldest first.
        slurm: In a word what SLURM says of the newest job, as RUNNING; empty: nothing.
        told: The same in a line; empty: there never was a job.
        left: What is left to train, and how many jobs that needs; empty: not known.
    """

    starts: tuple[JobStart, ...]
    slurm: str
    told: str
    left: str


def gather_jobs(
    layout: SessionLayout, config: Config | None = None, steps_done: dict[str, int] | None = None
) -> JobStatus:
    """Reads the records, and asks SLURM once if it may still know one of the jobs.

    Args:
        layout: The session; it need not have begun.
        config: Its configuration, once it has.
        steps_done: Completed steps of each phase that has begun.
    """
    starts = list_job_starts(layout)
    state, told = _newest_job(layout, starts)
    left = "" if config is None else _left(layout, config, steps_done or {}, starts)
    return JobStatus(tuple(starts), state, told, left)


def find_waiting(directory: Path) -> list[SessionLayout]:
    """Sessions at a folder, or right below it, that were submitted and have not begun."""
    folders = [directory]
    if directory.is_dir():
        folders += sorted(path for path in directory.iterdir() if path.is_dir())
    return [one for one in map(SessionLayout, folders) if _is_waiting(one)]


def _is_waiting(layout: SessionLayout) -> bool:
    """Whether jobs were submitted for a session that has not begun, as far as one may look."""
    with suppress(PermissionError):
        return layout.submitted_file.is_file() and not layout.session_file.exists()
    return False


def _newest_job(layout: SessionLayout, starts: list[JobStart]) -> tuple[str, str]:
    """What is to be said of the job that runs, else of the next that waits, else of the last."""
    last = starts[-1] if starts else None
    found = "", ""
    if last is not None:
        found = "", f"job {last.job_id} ended with exit code {last.code}"
        if not last.is_last:
            found = _ask(last.job_id)
    newest = 0 if last is None else int(last.job_id)
    waiting = [number for number in list_submitted(layout) if int(number) > newest]
    for number in waiting:
        if found[0] and found[0] not in _OVER:
            break
        asked = _ask(number)
        # What SLURM knows no more says less than the record of a job that ran.
        is_known = bool(asked[0]) or last is None or last.is_last
        found = asked if is_known else found
    return found


def _ask(job_id: str) -> tuple[str, str]:
    state = slurm.ask(job_id)
    if state is None:
        return "", f"job {job_id}; SLURM cannot be asked here, or knows it no more"
    told = f"job {job_id} is {state.state}"
    if state.nodes not in ("", "(null)"):
        told += f" on {state.nodes}"
    if state.state == "RUNNING" and state.ends is not None:
        told += f", {format_seconds(max(0.0, state.ends - time.time()))} left"
    elif state.reason != "None":
        told += f" ({state.reason})"
        if state.is_held:
            told += f"; SLURM holds it until `scontrol release {job_id}`"
    return state.state, told


def _left(
    layout: SessionLayout, config: Config, steps_done: dict[str, int], starts: list[JobStart]
) -> str:
    left = time_left(layout, config, steps_done)
    if left is None or left.seconds == 0:
        return ""
    text = f"{'at least ' if left.is_at_least else ''}{format_seconds(left.seconds)} of training"
    if not starts:
        return text
    number = slots_needed(
        layout, starts[-1], left.seconds, lead_s=config.cluster.signal_lead_s, now=time.time()
    )
    if number is None:
        return text
    if number == 0:
        return f"{text}; the job at hand is enough"
    slot = starts[-1]
    assert slot.slot_ends is not None
    length = format_seconds(slot.slot_ends - slot.began)
    return f"{text}: {number} more job{'' if number == 1 else 's'} of {length}"
