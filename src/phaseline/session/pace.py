"""How long steps, saves and phases are, by what the session has recorded. No torch."""

from __future__ import annotations

from itertools import pairwise
from statistics import median

from phaseline.session.layout import SessionLayout
from phaseline.session.records import read_events, read_metric_records

_NUM_STEPS = 200


def step_seconds(layout: SessionLayout, phase: str | None = None) -> float | None:
    """Seconds from step to step, saves and validations left out; None: nothing was measured.

    The newest attempt that did two steps decides: an earlier one may have had other machines.

    Args:
        layout: The session; it may be running.
        phase: Only steps of this phase.
    """
    for number in reversed(layout.attempt_numbers()):
        ends: list[tuple[int, float]] = [
            (record["global_step"], record["timing"]["time"])
            for record in read_metric_records(layout.attempt(number).metrics_file)
            if record.get("kind") == "train" and phase in (None, record["phase"])
        ][-_NUM_STEPS:]
        took = [end - begin for (step, begin), (after, end) in pairwise(ends) if after == step + 1]
        if took:
            return median(took)
    return None


def phase_lengths(layout: SessionLayout) -> dict[str, int]:
    """Steps of each phase that has begun: only a run knows what tokens and epochs come to."""
    return {
        event["phase"]: event["num_steps"]
        for number in layout.attempt_numbers()
        for event in read_events(layout.attempt(number).events_file)
        if event["event"] == "phase_started" and event.get("num_steps") is not None
    }


def save_seconds(layout: SessionLayout) -> float | None:
    """Seconds of the longest save of the newest attempt that saved; None: none was measured."""
    for number in reversed(layout.attempt_numbers()):
        took = [
            float(event["duration_s"])
            for event in read_events(layout.attempt(number).events_file)
            if event["event"] == "checkpoint_saved" and event.get("duration_s") is not None
        ]
        if took:
            return max(took)
    return None
