"""What is kept of checkpoints, against when they are made."""

from __future__ import annotations

import re
from collections.abc import Iterator

from phaseline.config.checks.finding import Finding, Place
from phaseline.config.checks.names import nearest_or_all
from phaseline.config.known_objectives import OBJECTIVES
from phaseline.config.sections import Config


def how_to_keep_the_best(config: Config, idx: int) -> str:
    """What has a phase keep its best checkpoint, a sentence."""
    path = f"phases[{idx}]"
    more = "" if config.phases[idx].evaluate.every else f" and {path}.evaluate.every, as 100 steps"
    return f"Set {path}.checkpoint.keep_best, as {{metric: loss}}{',' if more else ''}{more}."


def best_is_looked_for(place: Place) -> Iterator[Finding]:
    """Without a validation between, nothing but the end of the phase is measured."""
    if place.phase.checkpoint.keep_best is not None and place.phase.evaluate.every is None:
        yield Finding(
            place.loc("checkpoint", "keep_best"),
            "has no effect without validations during the phase",
            "Set for example evaluate.every to 100 steps, or remove it.",
            unused=True,
        )


def best_metric_is_measured(place: Place) -> Iterator[Finding]:
    """The names are those of the validation's records."""
    best = place.phase.checkpoint.keep_best
    if best is None:
        return
    ranges = place.phase.evaluate.position_ranges
    sources = place.phase.data.source_names
    objective = OBJECTIVES.get(place.phase.objective)
    if objective is None or place.phase.evaluate.metrics:
        return  # what the user's own code measures is told by the trial, before anything trains
    known = [
        "loss",
        *objective.metrics,
        *(f"loss_at_{re.sub('-', '_to_', item)}" for item in ranges),
        *(f"loss_{name}" for name in sources if len(sources) > 1),
    ]
    if best.metric not in known:
        yield Finding(
            place.loc("checkpoint", "keep_best", "metric"),
            f"is {best.metric!r}, which a validation of this phase does not measure",
            nearest_or_all(best.metric, known, "It measures"),
        )


def kept_spans_have_checkpoints(place: Place) -> Iterator[Finding]:
    """One in each span can only be kept of those that are made."""
    checkpoint = place.phase.checkpoint
    if checkpoint.keep_every is None:
        return
    if checkpoint.every is None and checkpoint.keep_best is None:
        yield Finding(
            place.loc("checkpoint", "keep_every"),
            "has no effect: the phase saves at its end alone",
            f"Set checkpoint.every to {checkpoint.keep_every}, or remove it.",
            unused=True,
        )


def copies_wait_behind_the_loop(place: Place) -> Iterator[Finding]:
    """A loop that waits for every save has never more than one."""
    checkpoint = place.phase.checkpoint
    if not checkpoint.asynchronous and checkpoint.max_in_memory > 1:
        yield Finding(
            place.loc("checkpoint", "max_in_memory"),
            f"is {checkpoint.max_in_memory}, which has no effect with asynchronous: false",
            "Remove it, or set checkpoint.asynchronous to true.",
            unused=True,
        )
