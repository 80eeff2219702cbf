"""The objectives that are built in: what each trains on, takes and measures.

Kept here as data, so that a session file can be checked without importing what it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from phaseline.config.known import Argument, Shape, is_frac, is_positive


@dataclass(frozen=True)
class KnownObjective:
    """One objective.

    Attributes:
        shapes: Of the sources that it trains on.
        metrics: What a validation measures besides `loss`.
        arguments: What `objective_arguments` may hold.
    """

    shapes: tuple[Shape, ...]
    metrics: tuple[str, ...] = ()
    arguments: Mapping[str, Argument] = field(default_factory=dict)


def _are_positive(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 1 and all(map(is_positive, value))


_OF_TOKENS = ("perplexity", "bits_per_byte")

OBJECTIVES: Mapping[str, KnownObjective] = {
    "causal_lm": KnownObjective(("text",), _OF_TOKENS),
    "sft": KnownObjective(("pairs", "chats"), _OF_TOKENS),
    "classification": KnownObjective(
        ("labelled",),
        ("accuracy", "calibration_error"),
        {
            "label_smoothing": Argument("a number from 0 to less than 1", is_frac, "0.1"),
            "class_weights": Argument(
                "a list of at least two numbers greater than 0, one for each class",
                _are_positive,
                "[1.0, 2.5]",
            ),
        },
    ),
}
"""Objectives by name."""


def shapes_of(objective: str) -> tuple[Shape, ...] | None:
    """What a built-in objective trains on; None of one that is the user's own."""
    known = OBJECTIVES.get(objective)
    return None if known is None else known.shapes
