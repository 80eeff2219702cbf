"""The end of the time that SLURM gave a job, and the last moment at which training may stop.

SLURM warns a job, and then kills it. A save that begins at the warning may be too late; one
that begins long before wastes the time. What a step and a save take is measured, so the last
save is placed where it is over before the warning can come.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from phaseline.cluster.slurm import JobPlace
from phaseline.config.checks.cluster import WARNING_SLACK_S
from phaseline.errors import PhaselineError
from phaseline.session.jobs import read_job_start
from phaseline.session.layout import SessionLayout
from phaseline.session.pace import save_seconds

_READ_EVERY_S = 10.0
_LOOK_EVERY_S = 0.5
_NUM_STEPS = 20
_ASSUMED_SAVE_S = 30.0
_FAREWELL_S = 10.0
"""The end of an attempt besides its save: outcome, report, the world's end."""


class Slot(Protocol):
    """The time that a job has. **Ranks:** main."""

    def look(self) -> str:
        """Why training must stop now, for people; empty while it need not."""

    def step_took(self, seconds: float) -> None:
        """Takes note of how long a step took."""

    def save_took(self, seconds: float) -> None:
        """Takes note of how long a save took, from its beginning to its published name."""


class EndlessSlot:
    """Takes the place of a slot where nobody ends the job."""

    def look(self) -> str:
        """Nothing ever ends."""
        return ""

    def step_took(self, seconds: float) -> None:
        """Nobody asks."""

    def save_took(self, seconds: float) -> None:
        """Nobody asks."""


class TimedSlot:
    """A slot whose end may be moved while the job runs."""

    def __init__(
        self,
        read_end: Callable[[], float | None],
        *,
        lead_s: float,
        save_s: float | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Looks at the first call.

        Args:
            read_end: Unix time at which SLURM ends the job; None: never.
            lead_s: Seconds before it at which SLURM warns the job.
            save_s: What a save took in earlier attempts; None: not known.
            clock: Unix time.
        """
        self._read_end = read_end
        self._lead_s = lead_s
        self._save_s = _ASSUMED_SAVE_S if save_s is None else save_s
        self._is_assumed = save_s is None
        self._steps_s: deque[float] = deque(maxlen=_NUM_STEPS)
        self._clock = clock
        self._end: float | None = None
        self._next_reading = 0.0
        self._next_look = 0.0

    def look(self) -> str:
        """Why training must stop now; it may be called at every step."""
        now = self._clock()
        if now < self._next_look:
            return ""
        self._next_look = now + _LOOK_EVERY_S
        if now >= self._next_reading:
            self._next_reading = now + _READ_EVERY_S
            # A record that cannot be read now must not end a healthy run.
            with suppress(OSError, PhaselineError):
                self._end = self._read_end()
        if self._end is None or now < self._end - self._lead_s - WARNING_SLACK_S - self.needed_s:
            return ""
        return f"the job's time ends in {max(0.0, self._end - now):.0f} s"

    @property
    def needed_s(self) -> float:
        """Seconds from the decision to stop until everything is saved."""
        # The step at hand and the one at whose end the vote is read; a save that may be under
        # way, and the last one.
        return 2 * max(self._steps_s, default=0.0) + 2 * self._save_s + _FAREWELL_S

    def step_took(self, seconds: float) -> None:
        """The longest of the last steps counts."""
        self._steps_s.append(seconds)

    def save_took(self, seconds: float) -> None:
        """The longest save counts; the first one takes the place of what was assumed."""
        self._save_s = seconds if self._is_assumed else max(self._save_s, seconds)
        self._is_assumed = False


def open_slot(layout: SessionLayout, *, lead_s: float) -> Slot:
    """The slot of the SLURM job that this process belongs to; an endless one elsewhere.

    Its end is read from the record that the job's own program keeps, since there may be no
    SLURM command where ranks run (containers).
    """
    place = JobPlace.read()
    if place is None or read_job_start(layout, place.job_id, place.restart) is None:
        return EndlessSlot()
    job_id, restart = place.job_id, place.restart

    def read_end() -> float | None:
        start = read_job_start(layout, job_id, restart)
        return None if start is None else start.slot_ends

    return TimedSlot(read_end, lead_s=lead_s, save_s=save_seconds(layout))
