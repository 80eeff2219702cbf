"""A phase against its data, its evaluation and the phase before."""

from __future__ import annotations

from collections.abc import Iterator

from phaseline.config.checks.finding import Finding, Place
from phaseline.config.known_objectives import shapes_of


def profiled_steps_are_inside(place: Place) -> Iterator[Finding]:
    """Steps beyond the phase's end would never be profiled."""
    profile, duration = place.phase.profile, place.phase.duration
    if profile is None or duration.unit != "steps":
        return
    if profile.bounds[0] > duration.value:
        yield Finding(
            place.loc("profile", "steps"),
            f"is {profile.steps!r}, but the phase has {duration.value:.0f} steps",
            f"Begin before step {duration.value:.0f}, or remove it.",
            unused=True,
        )


def weight_has_an_effect(place: Place) -> Iterator[Finding]:
    """Only a mixture has shares."""
    sources = place.phase.data.sources
    if len(sources) == 1 and "weight" in sources[0].model_fields_set:
        yield Finding(
            place.loc("data", "sources", 0, "weight"),
            f"is {sources[0].weight:g}, which has no effect with a single source",
            "Remove it, or add another source.",
            unused=True,
        )


def held_out_prompts_have_pairs(place: Place) -> Iterator[Finding]:
    """Only pairs have prompts that can be held out."""
    samples = place.phase.evaluate.samples
    if samples is None or samples.held_out_prompts == 0:
        return
    if shapes_of(place.phase.objective) == ("text",):
        yield Finding(
            place.loc("evaluate", "samples", "held_out_prompts"),
            f"is {samples.held_out_prompts}, but {place.phase.objective} trains on text, "
            "which has no prompts",
            "Remove it and list texts to continue in `prompts`; it is for sft.",
            unused=True,
        )


def samples_have_prompts(place: Place) -> Iterator[Finding]:
    """Samples continue at least one prompt."""
    samples = place.phase.evaluate.samples
    if samples is not None and not samples.prompts and samples.held_out_prompts == 0:
        yield Finding(
            place.loc("evaluate", "samples"),
            "has no effect: it has neither `prompts` nor `held_out_prompts`",
            "Add for example `prompts: ['def add(a, b):']`, or remove the section.",
        )


def position_ranges_are_inside(place: Place) -> Iterator[Finding]:
    """Reported positions exist in held-out sequences."""
    length = place.phase.evaluate.sequence_length or place.phase.data.sequence_length
    if length is None:
        return
    for range_idx, item in enumerate(place.phase.evaluate.position_ranges):
        first, last = map(int, item.split("-"))
        if last >= length:
            inside = f" Set for example {first}-{length - 1}." if first < length else ""
            yield Finding(
                place.loc("evaluate", "position_ranges", range_idx),
                f"is {item!r}, but held-out sequences have the positions 0 to {length - 1}",
                f"Shorten the range, or raise evaluate.sequence_length.{inside}",
            )
