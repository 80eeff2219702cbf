"""The learning rate as a pure function of the update number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """The learning rate of update u = 1..num_steps of one phase.

    Warm-up is `peak * u / warmup_steps`. Update `num_steps` has exactly
    `peak * final_frac` for the shapes that decay.

    Attributes:
        shape: constant, linear, cosine, wsd or inverse_sqrt.
        peak: Largest learning rate.
        num_steps: Updates in the phase.
        warmup_steps: Updates of linear warm-up; 0: none.
        decay_steps: Updates of the final decay; wsd only.
        final_frac: Last learning rate over peak.
    """

    shape: str
    peak: float
    num_steps: int
    warmup_steps: int
    decay_steps: int
    final_frac: float

    def __call__(self, update: int) -> float:
        """The learning rate that update number `update` uses; the first is 1."""
        if update <= self.warmup_steps:
            return self.peak * update / self.warmup_steps
        return self.peak * _SHAPES[self.shape](self, update)


def _constant(_rate: LearningRate, _update: int) -> float:
    return 1.0


def _linear(rate: LearningRate, update: int) -> float:
    return _fall(rate.final_frac, _progress(rate, update))


def _cosine(rate: LearningRate, update: int) -> float:
    half = 0.5 * (1.0 - math.cos(math.pi * _progress(rate, update)))
    return _fall(rate.final_frac, half)


def _wsd(rate: LearningRate, update: int) -> float:
    stable_until = rate.num_steps - rate.decay_steps
    if update <= stable_until:
        return 1.0
    return _fall(rate.final_frac, (update - stable_until) / rate.decay_steps)


def _inverse_sqrt(rate: LearningRate, update: int) -> float:
    return math.sqrt(max(1, rate.warmup_steps) / update)


def _progress(rate: LearningRate, update: int) -> float:
    return (update - rate.warmup_steps) / (rate.num_steps - rate.warmup_steps)


def _fall(final_frac: float, progress: float) -> float:
    """From 1 at progress 0 to `final_frac` at progress 1, exact at both ends."""
    return (1.0 - progress) + final_frac * progress


_SHAPES: dict[str, Callable[[LearningRate, int], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "wsd": _wsd,
    "inverse_sqrt": _inverse_sqrt,
}
