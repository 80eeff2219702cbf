"""When a save is due by wall time."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_SAVE_S = 180.0
"""The first save of a start comes this early: what fails, fails soon after a start."""


class SaveTimer:
    """Tells when it is time to save. One rank's is asked; the others follow it by vote."""

    def __init__(
        self, interval_s: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Starts at once.

        Args:
            interval_s: Seconds between two saves; None: time never asks for one.
            clock: Seconds, from anywhere on.
        """
        self._interval_s = interval_s
        self._clock = clock
        self._due_at = None if interval_s is None else clock() + min(interval_s, FIRST_SAVE_S)

    def is_due(self) -> bool:
        """Whether the time for a save has come."""
        return self._due_at is not None and self._clock() >= self._due_at

    def note_saved(self) -> None:
        """Takes note that a save begins now, for whatever reason."""
        if self._interval_s is not None:
            self._due_at = self._clock() + self._interval_s
