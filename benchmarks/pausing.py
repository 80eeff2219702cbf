"""Loops that cannot be called step by step, made to run a few steps at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable


class LoopEndedError(Exception):
    """Raised inside a loop to leave it."""


class Turnstile:
    """Lets a loop through for so many steps, then holds it until the next round."""

    def __init__(self) -> None:
        self._steps_left = 0
        self._go = threading.Semaphore(0)
        self._rests = threading.Semaphore(0)
        self._ended = False
        self.failure: BaseException | None = None

    def step_ended(self) -> None:
        """Called by the loop after every step."""
        self._steps_left -= 1
        if self._steps_left <= 0:
            self._rest()

    def _rest(self) -> None:
        self._rests.release()
        self._go.acquire()
        if self._ended:
            raise LoopEndedError

    def run(self, loop: Callable[[Turnstile], None]) -> None:
        """The body of the loop's thread."""
        self._go.acquire()
        try:
            loop(self)
        except LoopEndedError:
            pass
        except BaseException as failure:  # noqa: BLE001 - passed on to who waits
            self.failure = failure
        self._rests.release()

    def let_through(self, num_steps: int, *, end: bool = False) -> None:
        """Returns once the loop has done so many steps, or has ended."""
        self._steps_left = num_steps
        self._ended = end
        self._go.release()
        self._rests.acquire()
        if self.failure is not None:
            raise RuntimeError("a loop failed") from self.failure


class PausedLoop:
    """A training loop in a thread of its own; no two of them ever run at once."""

    def __init__(self, name: str, loop: Callable[[Turnstile], None]) -> None:
        """Starts the thread, which waits.

        Args:
            name: For the table.
            loop: Trains for ever and calls `step_ended` after every optimizer step.
        """
        self.name = name
        self._turnstile = Turnstile()
        self._thread = threading.Thread(target=self._turnstile.run, args=[loop], daemon=True)
        self._thread.start()

    def advance(self, num_steps: int) -> None:
        """Runs so many optimizer steps."""
        self._turnstile.let_through(num_steps)

    def close(self) -> None:
        """Leaves the loop."""
        self._turnstile.let_through(0, end=True)
        self._thread.join()
