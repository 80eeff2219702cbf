"""Telling a second Ctrl-C, which means "now", from the first one delivered twice. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum

SAME_PRESS_S = 0.5
"""One key press may reach a process twice: from the terminal, and handed on by its parent."""
PAIR_S = 2.0
"""Presses further apart are no pair: whoever waits for a long save must not lose it."""
LEAVE_HINT = f"twice in {PAIR_S:g} s leaves at once"
"""What a person who presses Ctrl-C should know."""


class Press(Enum):
    """What a SIGINT means."""

    FIRST = "a press after a while"
    SAME = "the press before, delivered again"
    SECOND = "a second press within two seconds"


class SecondPress:
    """Counts presses of Ctrl-C in pairs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts with no press.

        Args:
            clock: Seconds, from anywhere.
        """
        self._clock = clock
        self._first_s: float | None = None

    def count(self) -> Press:
        """Counts a SIGINT and says what it means."""
        now_s = self._clock()
        if self._first_s is None or now_s - self._first_s > PAIR_S:
            self._first_s = now_s
            return Press.FIRST
        return Press.SAME if now_s - self._first_s < SAME_PRESS_S else Press.SECOND
