"""Speed, and the time that is left."""

from __future__ import annotations

import time


class ProgressClock:
    """Seconds per step of the running phase, everything between steps included.

    The session's time left assumes that a token of a later phase costs what one costs now.
    """

    def __init__(self, *, phase_steps: int, tokens_per_step: int, later_tokens: int) -> None:
        """Starts at the first call of `update`.

        Args:
            phase_steps: Steps in the phase.
            tokens_per_step: Tokens that one step consumes.
            later_tokens: Tokens of the phases after this one.
        """
        self._phase_steps = phase_steps
        self._tokens_per_step = tokens_per_step
        self._later_tokens = later_tokens
        self._first: tuple[float, int] | None = None
        self._last: tuple[float, int] | None = None
        self.tokens_per_s = 0.0
        self.phase_left_s: float | None = None
        self.session_left_s: float | None = None

    def update(self, phase_step: int) -> None:
        """Takes note that so many steps of the phase are done now."""
        now = time.monotonic()
        if self._first is None or self._last is None:
            self._first = self._last = (now, phase_step)
            return
        (last_time, last_step), (first_time, first_step) = self._last, self._first
        if phase_step > last_step and now > last_time:
            steps_per_s = (phase_step - last_step) / (now - last_time)
            self.tokens_per_s = steps_per_s * self._tokens_per_step
            mean_s = (now - first_time) / (phase_step - first_step)
            self.phase_left_s = mean_s * (self._phase_steps - phase_step)
            later_s = mean_s * self._later_tokens / self._tokens_per_step
            self.session_left_s = self.phase_left_s + later_s
            self._last = (now, phase_step)
