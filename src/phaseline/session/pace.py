"""How long steps, saves and phases are, by what the session has recorded. No torch."""

from __future__ import annotations

from itertools import islice, pairwise, takewhile
from statistics import median

from phaseline.session.layout import SessionLayout
from phaseline.session.record_ends import ends_of_phases, read_backwards
from phaseline.session.records import read_events

_NUM_STEPS = 200


def step_seconds(layout: SessionLayout, phase: str | None = None) -> float | None:
    """Seconds from step to step, saves and validations left out; None: nothing was measured.

    The newest attempt that did two steps decides: an earlier one may have had other machines.

    Args:
        layout: The session; it may be running.
        phase: Only steps of this phase.
    """
    for number in reversed(layout.attempt_numbers()):
        path = layout.attempt(number).metrics_file
        places = [end for name, end in ends_of_phases(path) if phase in (None, name)]
        if not places:
            continue
        records = takewhile(
            lambda record: phase in (None, record["phase"]), read_backwards(path, places[0])
        )
        trained = (record for record in records if record["kind"] == "train")
        ends: list[tuple[int, float]] = [
            (record["global_step"], record["timing"]["time"])
            for record in islice(trained, _NUM_STEPS)
        ]
        took = [end - begin for (after, end), (step, begin) in pairwise(ends) if after == step + 1]
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
