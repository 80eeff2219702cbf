"""Speed, and the time that is left."""

from __future__ import annotations

import time
from collections import deque

from phaseline.training.phases.meter import Gauges
from phaseline.training.phases.plan import PhasePlan

_NUM_RECENT = 8
"""Readings that the time left goes by: enough to be calm, few enough to follow a change."""
_LONGEST_SILENCE_S = 0.5
"""Between two showings of the step at hand, where steps are slower than readings are far apart."""


class ProgressClock:
    """Seconds per step of the running phase, and from them the time that is left.

    Steps are timed without evaluation and without waiting for saves. The time that is left
    has both in it: each costs what the last one did, as often as the plan still has it. The
    session's time left assumes that a token of a later phase costs what one costs now.

    Attributes:
        step_s: Seconds per step at the last reading; 0 before the first.
        elapsed_s: Seconds since the first call of `update`.
        phase_left_s: Seconds to the end of the phase; None: not known yet.
        session_left_s: Seconds to the end of the session; None: not known yet.
    """

    def __init__(self, plan: PhasePlan, *, later_tokens: int) -> None:
        """Starts at the first call of `update`.

        Args:
            plan: The phase's lengths in steps.
            later_tokens: Tokens of the phases after this one.
        """
        self._plan = plan
        self._later_tokens = later_tokens
        self._began = 0.0
        self._last: tuple[float, int] | None = None
        self._recent: deque[tuple[int, float]] = deque(maxlen=_NUM_RECENT)
        self._evaluation_s = 0.0
        self._save_s = 0.0
        self._shown_at = time.monotonic()
        self.step_s = 0.0
        self.elapsed_s = 0.0
        self.phase_left_s: float | None = None
        self.session_left_s: float | None = None

    @property
    def tokens_per_s(self) -> float:
        """Over all ranks, at the last reading; 0 before the first."""
        return self._plan.tokens_per_step / self.step_s if self.step_s else 0.0

    def is_silent(self) -> bool:
        """Whether nothing was shown for a while."""
        return time.monotonic() - self._shown_at > _LONGEST_SILENCE_S

    def note_shown(self) -> None:
        """Takes note that the step at hand is shown now."""
        self._shown_at = time.monotonic()

    def update(self, phase_step: int, gauges: Gauges | None = None) -> None:
        """Takes note that so many steps of the phase are done now.

        Args:
            phase_step: Steps of the phase that are done.
            gauges: What went elsewhere since the last call, alike on all ranks.
        """
        now = time.monotonic()
        if self._last is None:
            self._last, self._began = (now, phase_step), now
            return
        last_time, last_step = self._last
        if phase_step <= last_step or now <= last_time:
            return
        away_s = 0.0
        if gauges is not None:
            away_s = gauges.evaluation_s + gauges.save_stall_s
            self._note_costs(gauges, last_step, phase_step)
        num_steps = phase_step - last_step
        # The slowest rank's waits may be longer than this rank's span.
        steps_s = max(now - last_time - away_s, 1e-9)
        is_first = self.step_s == 0
        self.step_s = steps_s / num_steps
        self.elapsed_s = now - self._began
        self._last = (now, phase_step)
        if num_steps > 1 or not is_first:  # a first step alone pays for what starts with it
            self._recent.append((num_steps, steps_s))
            self._estimate(phase_step)

    def _note_costs(self, gauges: Gauges, after: int, until: int) -> None:
        plan = self._plan
        if gauges.evaluation_s > 0:
            self._evaluation_s = gauges.evaluation_s / max(1, plan.validation.count(after, until))
        if gauges.save_stall_s > 0:
            self._save_s = gauges.save_stall_s / max(1, plan.checkpoint.count(after, until))

    def _estimate(self, phase_step: int) -> None:
        plan = self._plan
        recent_s = sum(span_s for _, span_s in self._recent) / sum(n for n, _ in self._recent)

        def cost_s(after: int) -> float:
            # The phase's end brings one more of each.
            evaluations = 1 + plan.validation.count(after, plan.num_steps - 1)
            saves = 1 + plan.checkpoint.count(after, plan.num_steps - 1)
            work_s = recent_s * (plan.num_steps - after)
            if plan.checkpoint_s is not None:
                saves += int(work_s / plan.checkpoint_s)
            return work_s + evaluations * self._evaluation_s + saves * self._save_s

        self.phase_left_s = cost_s(phase_step)
        per_token_s = cost_s(0) / (plan.num_steps * plan.tokens_per_step)
        self.session_left_s = self.phase_left_s + per_token_s * self._later_tokens
