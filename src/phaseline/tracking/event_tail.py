"""The events of all attempts, read on and on while they grow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from phaseline.session.attempts import read_error, read_outcome
from phaseline.session.layout import AttemptLayout, SessionLayout
from phaseline.session.record_checks import is_event
from phaseline.tracking.view_tail import FileTail

LOST = "attempt_lost"
"""What is said of an attempt that ended without a word of its own."""


class EventTail:
    """Yields every event once, each with the number of its attempt.

    A process that is killed records no event. So an attempt without an outcome counts as lost
    once another has begun, or once somebody says that its process is gone.
    """

    def __init__(self, layout: SessionLayout) -> None:
        """Reads nothing yet."""
        self._layout = layout
        self._tails: dict[int, FileTail] = {}
        self._judged: set[int] = set()

    def read_new(self, *, is_gone: bool = False) -> Iterator[dict[str, Any]]:
        """Yields what was added since the last time, attempt after attempt.

        Args:
            is_gone: Whether the newest attempt's process is gone.
        """
        numbers = self._layout.attempt_numbers()
        for number in numbers:
            if number in self._judged:
                continue  # after hundreds of restarts their files are not opened at every look
            attempt = self._layout.attempt(number)
            tail = self._tails.setdefault(number, FileTail(attempt.events_file))
            for event in filter(is_event, tail.read_new()):
                yield {**event, "attempt": number}
            is_over = is_gone or number != numbers[-1]
            if is_over:
                self._judged.add(number)
                del self._tails[number]
                yield from _lost(attempt)


def _lost(attempt: AttemptLayout) -> Iterator[dict[str, Any]]:
    error = read_error(attempt)
    if error is not None:
        place = "" if error.phase is None else f" in {error.phase} at step {error.step}"
        reason = f"rank {error.rank}{place}: {error.kind}: {error.message}"
    elif read_outcome(attempt) is not None:
        return
    else:
        reason = "it was killed, or its machine went down: it left no word"
    yield {"event": LOST, "attempt": attempt.number, "reason": reason}
