"""Showing what keeps a tracker from being fed, while training goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from phaseline.tracking.console import Display
from phaseline.tracking.feed_problem import take_problem
from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.runtime import PhaseRuntime

_LOOK_EVERY_S = 2.0


class FeedNotices(Callback):
    """Looks now and then, between two steps, for what followers say. **Ranks:** main."""

    def __init__(self, session_dir: Path, names: Sequence[str], display: Display) -> None:
        """Looks at the first step.

        Args:
            session_dir: The session's directory.
            names: The trackers that this rank has fed.
            display: Where it is shown.
        """
        self._session_dir = session_dir
        self._names = names
        self._display = display
        self._next_s = 0.0

    def step_ended(self, runtime: PhaseRuntime) -> None:  # noqa: ARG002 - any will do
        """Looks, if it is time."""
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + _LOOK_EVERY_S
            self.look()

    def look(self) -> None:
        """Shows what was left since the last look."""
        for name in self._names:
            problem = take_problem(self._session_dir, name)
            if problem:
                self._display.note(problem)
