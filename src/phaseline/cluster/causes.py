"""Why a session is asked to stop, and why SLURM ends a job, in words for the record."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Sequence

from phaseline.cluster import slurm
from phaseline.cluster.slurm import JobPlace, JobState

CANCELLED = "cancelled (scancel)"
PREEMPTED = "preempted: another job needs the nodes"
TIME_LIMIT = "the job's time limit"
REQUEUED = "requeued from outside (scontrol requeue)"
_BY_TERMINAL = {signal.SIGINT: "Ctrl-C", signal.SIGHUP: "the terminal was closed"}
_NODE_FAILURE = re.compile(r"Node failure on (?P<node>\S+)")
_DUE_TO = re.compile(r"CANCELLED AT \S+ DUE TO (?P<why>[A-Z ]+)")
_WORDS = {
    "TIME LIMIT": TIME_LIMIT,
    "PREEMPTION": PREEMPTED,
    "JOB REQUEUE": REQUEUED,
    "NODE FAILURE": "a node failed",
}
_WARNING_SLACK_S = 120.0
_ASK_TIMEOUT_S = 5.0
"""Whoever asks has little time left."""


def cause_of_stop(number: int, place: JobPlace | None, *, lead_s: float) -> str:
    """Why this process was sent a signal, as far as SLURM says.

    Args:
        number: The signal.
        place: The job; None outside of SLURM.
        lead_s: Seconds before the end of its time at which the job is warned.
    """
    name = signal.Signals(number).name
    state = None if place is None else slurm.ask(place.name, timeout_s=_ASK_TIMEOUT_S)
    cause = "" if place is None or state is None else _cause(number, place, state, lead_s)
    cause = cause or _BY_TERMINAL.get(signal.Signals(number), "")
    return f"{cause}, {name}" if cause else name


def _cause(number: int, place: JobPlace, state: JobState, lead_s: float) -> str:
    if state.is_preempted:
        return PREEMPTED
    if state.restarts > place.restart:
        return REQUEUED
    if state.is_out_of_time or state.reason == "TimeLimit":
        return TIME_LIMIT
    if number == signal.SIGTERM and state.state != "RUNNING":
        return CANCELLED
    left_s = _left_s(state)
    if number == signal.SIGUSR1 and left_s is not None and left_s <= lead_s + _WARNING_SLACK_S:
        return TIME_LIMIT
    return ""


def _left_s(state: JobState) -> float | None:
    return None if state.ends is None else state.ends - time.time()


def cause_by_now(place: JobPlace) -> str:
    """Why a step ended of which nobody told the job's own program; empty if SLURM knows nothing.

    At the beginning of a preemption's grace SLURM sends a signal to the ranks alone.
    """
    state = slurm.ask(place.name)
    return PREEMPTED if state is not None and state.is_preempted else ""


def cause_in_words(lines: Sequence[str]) -> str:
    """What srun and SLURM's step daemons say of a step's end; empty if they say nothing."""
    text = "\n".join(lines)
    failed = _NODE_FAILURE.search(text)
    if failed is not None:
        return f"node failure: {failed['node']}"
    due = _DUE_TO.search(text)
    return _WORDS.get(due["why"].strip(), "") if due else ""
