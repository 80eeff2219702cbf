"""The learning rate's shape against its own settings and the length of the phase."""

from __future__ import annotations

from collections.abc import Iterator

from phaseline.config.checks.finding import Finding, Place
from phaseline.config.sections import PhaseSection
from phaseline.units import NEVER, Duration

_WITHOUT_FINAL = ("constant", "inverse_sqrt")
_FALLING = ("linear", "cosine")


def wsd_has_a_decay(place: Place) -> Iterator[Finding]:
    """The schedule wsd needs to know when to fall."""
    if place.phase.schedule.name == "wsd" and place.phase.schedule.decay is None:
        yield Finding(
            place.loc("schedule", "decay"),
            "is missing, and wsd needs it: the length of the final decay",
            "Add for example `decay: 100 steps`.",
        )


def decay_has_an_effect(place: Place) -> Iterator[Finding]:
    """Only wsd has a decay of its own length."""
    schedule = place.phase.schedule
    if schedule.name != "wsd" and schedule.decay is not None:
        yield Finding(
            place.loc("schedule", "decay"),
            f"is {str(schedule.decay)!r}, which has no effect with the schedule {schedule.name}",
            "Remove it, or set schedule.name to wsd.",
            unused=True,
        )


def final_rate_has_an_effect(place: Place) -> Iterator[Finding]:
    """Only a schedule that ends somewhere has a final rate."""
    schedule = place.phase.schedule
    if schedule.name in _WITHOUT_FINAL and "final_lr_frac" in schedule.model_fields_set:
        yield Finding(
            place.loc("schedule", "final_lr_frac"),
            f"is {schedule.final_lr_frac:g}, which has no effect with the schedule {schedule.name}",
            "Remove it, or set schedule.name to linear, cosine or wsd.",
            unused=True,
        )


def inverse_sqrt_has_a_warmup(place: Place) -> Iterator[Finding]:
    """inverse_sqrt takes its scale from the warm-up."""
    if place.phase.schedule.name == "inverse_sqrt" and place.phase.schedule.warmup is None:
        yield Finding(
            place.loc("schedule", "warmup"),
            "is missing, and inverse_sqrt needs it: the rate falls from the end of the warm-up",
            "Add for example `warmup: 20 steps`.",
        )


def warmup_and_decay_fit(place: Place) -> Iterator[Finding]:
    """Compares in steps where units differ; epochs compare with epochs only."""
    schedule = place.phase.schedule
    parts = {"warmup": schedule.warmup, "decay": schedule.decay}
    given = {key: part for key, part in parts.items() if part is not None}
    if not given:
        return
    lengths = _comparable((*given.values(), place.phase.duration), _tokens_per_step(place.phase))
    if lengths is None:
        return
    *taken, whole = lengths
    # A shape that falls to the end needs at least one update to fall in.
    falls = schedule.name in _FALLING
    if sum(taken) < whole or (sum(taken) == whole and not falls):
        return
    first, *others = given
    and_more = "".join(f" and {key} is {str(given[key])!r}" for key in others)
    subject = "together they" if others else "it"
    limit = "less than" if falls else "at most"
    yield Finding(
        place.loc("schedule", first),
        f"is {str(given[first])!r}{and_more}; {subject} must be {limit} the phase's "
        f"duration, {str(place.phase.duration)!r}",
        f"Shorten {' or '.join(given)}, or lengthen the duration.",
    )


def epochs_have_one_source(place: Place) -> Iterator[Finding]:
    """An epoch of a mixture is not defined: its sources end at different times."""
    num_sources = len(place.phase.data.sources)
    if num_sources == 1:
        return
    for keys, duration in (
        (("duration",), place.phase.duration),
        (("schedule", "warmup"), place.phase.schedule.warmup),
        (("schedule", "decay"), place.phase.schedule.decay),
    ):
        if duration is not None and duration.unit == "epochs":
            yield Finding(
                place.loc(*keys),
                f"is {str(duration)!r}, but a mixture of {num_sources} sources has no epochs",
                "Give it in steps or tokens, or train on one source.",
            )


def intervals_are_in_steps_or_tokens(place: Place) -> Iterator[Finding]:
    """Intervals are counted in what every phase has."""
    saved = place.phase.checkpoint.every or NEVER
    for section, key, interval in (
        ("evaluate", "every", place.phase.evaluate.every),
        ("checkpoint", "every", saved.length),
        ("checkpoint", "keep_every", place.phase.checkpoint.keep_every),
    ):
        if interval is not None and interval.unit == "epochs":
            yield Finding(
                place.loc(section, key),
                f"is {str(interval)!r}; an interval must be in steps or tokens",
                "Set for example 100 steps.",
            )


def _tokens_per_step(phase: PhaseSection) -> int:
    return max(1, phase.global_size) * phase.data.tokens_per_row


def _comparable(durations: tuple[Duration, ...], tokens_per_step: int) -> list[float] | None:
    """The durations in one unit; None if that needs the size of the data."""
    units = {duration.unit for duration in durations}
    if units == {"epochs"}:
        return [duration.value for duration in durations]
    if "epochs" in units:
        return None
    return [
        duration.steps(tokens_per_step=tokens_per_step, steps_per_epoch=1.0)
        for duration in durations
    ]
