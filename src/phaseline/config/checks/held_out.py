"""What a phase holds out, and which of its tokens it learns."""

from __future__ import annotations

from collections.abc import Iterator

from phaseline.config.checks.finding import Finding, Place
from phaseline.config.known_objectives import shapes_of
from phaseline.config.known_sources import SHAPE_WORDS, known_shape

_HAS_ANSWERS = {"pairs", "chats"}


def held_out_is_said_once(place: Place) -> Iterator[Finding]:
    """A share, patterns or a source."""
    data = place.phase.data
    held_out = data.held_out
    if held_out is None:
        return
    if "held_out_frac" in data.model_fields_set:
        yield Finding(
            place.loc("data", "held_out_frac"),
            f"is {data.held_out_frac:g}, which has no effect with `held_out`",
            "Remove one of them.",
            unused=True,
        )
    if bool(held_out.ids) == (held_out.source is not None):
        yield Finding(
            place.loc("data", "held_out"),
            "must have exactly one of `ids` and `source`",
            "Set for example `ids: ['*/test/*']`.",
        )
    if held_out.arguments and held_out.source is None:
        yield Finding(
            place.loc("data", "held_out", "arguments"),
            "has no effect without `source`",
            "Remove it, or name a source of its own.",
        )


def held_out_source_has_the_objective_shape(place: Place) -> Iterator[Finding]:
    """What is validated on has the shape of what is trained on."""
    held_out = place.phase.data.held_out
    wanted = shapes_of(place.phase.objective)
    if held_out is None or held_out.source is None or wanted is None:
        return
    shape = known_shape(held_out.source, held_out.arguments)
    if shape is None or shape in wanted:
        return
    yield Finding(
        place.loc("data", "held_out", "source"),
        f"is {held_out.source!r}, which gives {SHAPE_WORDS[shape]}, but the objective "
        f"{place.phase.objective} trains on {' or '.join(SHAPE_WORDS[one] for one in wanted)}",
        "Use a source of that shape.",
    )


def learn_has_an_effect(place: Place) -> Iterator[Finding]:
    """Only pairs and chats have something that need not be learnt."""
    wanted = shapes_of(place.phase.objective)
    data = place.phase.data
    if "learn" in data.model_fields_set and wanted is not None and not _HAS_ANSWERS & {*wanted}:
        words = " or ".join(SHAPE_WORDS[one] for one in wanted)
        yield Finding(
            place.loc("data", "learn"),
            f"is {data.learn!r}, which has no effect: {place.phase.objective} trains on {words}",
            "Remove it; it is for pairs and chats.",
            unused=True,
        )
