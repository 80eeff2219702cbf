"""How many more jobs a session needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from phaseline.config.checks.cluster import WARNING_SLACK_S
from phaseline.config.sections import Config
from phaseline.session.jobs import JobStart
from phaseline.session.layout import SessionLayout
from phaseline.session.pace import phase_lengths, save_seconds, step_seconds
from phaseline.session.records import read_metric_records


@dataclass(frozen=True)
class TimeLeft:
    """What is left to train.

    Attributes:
        seconds: Of training, at the speed of the last steps.
        is_at_least: Whether a phase is to come whose length only a run can tell.
    """

    seconds: float
    is_at_least: bool


def time_left(layout: SessionLayout, config: Config, steps_done: dict[str, int]) -> TimeLeft | None:
    """Time that the rest of a session takes; None before two steps were timed.

    A token of a later phase is taken to cost what one costs now.

    Args:
        layout: The session.
        config: Its configuration.
        steps_done: Completed steps of each phase that has begun.
    """
    begun = [phase for phase in config.phases if phase.name in steps_done]
    lengths = phase_lengths(layout)
    step_s = step_seconds(layout)
    if not begun or step_s is None:
        return None
    now = begun[-1]
    token_s = step_s / now.tokens_per_step
    seconds, is_at_least = 0.0, False
    for phase in config.phases[config.phases.index(now) :]:
        tokens_per_step = phase.tokens_per_step
        num_steps = lengths.get(phase.name)
        if num_steps is None and phase.duration.unit == "epochs":
            is_at_least = True
            continue
        if num_steps is None:
            num_steps = phase.duration.steps(tokens_per_step=tokens_per_step, steps_per_epoch=1.0)
        left = max(0, num_steps - steps_done.get(phase.name, 0))
        seconds += left * tokens_per_step * token_s
    return TimeLeft(seconds, is_at_least)


def slots_needed(
    layout: SessionLayout, start: JobStart, left_s: float, *, lead_s: float, now: float
) -> int | None:
    """More jobs that a session needs after the one at hand; None where jobs have no end.

    Args:
        layout: The session.
        start: The newest start of a job; it may be over.
        left_s: Seconds of training that are left.
        lead_s: Seconds before its end at which a job is warned.
        now: Unix time.
    """
    if start.slot_ends is None:
        return None
    # Of a job's time the start trains nothing, and after the last save nothing is trained.
    reserve_s = lead_s + WARNING_SLACK_S + 2 * (save_seconds(layout) or 0.0)
    usable_s = start.slot_ends - start.began - reserve_s - _start_seconds(layout, start)
    here_s = max(0.0, start.slot_ends - reserve_s - now) if start.ended is None else 0.0
    if left_s <= here_s:
        return 0
    return math.ceil((left_s - here_s) / usable_s) if usable_s > 0 else None


def _start_seconds(layout: SessionLayout, start: JobStart) -> float:
    """From the job's beginning to its first step; 0 if it did none."""
    for number in layout.attempt_numbers():
        if number > start.since:
            record = next(read_metric_records(layout.attempt(number).metrics_file, 1), None)
            return 0.0 if record is None else max(0.0, record["timing"]["time"] - start.began)
    return 0.0
