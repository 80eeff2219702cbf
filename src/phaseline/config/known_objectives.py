"""The objectives that are built in: what each trains on, takes and measures.

Kept here as data, so that a session file can be checked without importing what it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from phaseline.config.known import Argument, Shape, is_positive


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


def _is_share(value: object) -> bool:
    return is_positive(value) and isinstance(value, (int, float)) and value <= 1


_OF_TOKENS = ("perplexity", "bits_per_byte")
_DIRECTIONS = ("forward", "reverse")

OBJECTIVES: Mapping[str, KnownObjective] = {
    "causal_lm": KnownObjective(("text",), _OF_TOKENS),
    "distillation": KnownObjective(
        ("text", "pairs", "chats"),
        (*_OF_TOKENS, "cross_entropy", "kl"),
        {
            "teacher": Argument(
                "text", lambda value: isinstance(value, str) and bool(value), "phase:pretrain", True
            ),
            "weight": Argument("a number greater than 0 and at most 1", _is_share, "0.5"),
            "temperature": Argument("a number greater than 0", is_positive, "2.0"),
            "direction": Argument("forward or reverse", _DIRECTIONS.__contains__, "reverse"),
        },
    ),
    "sft": KnownObjective(("pairs", "chats"), _OF_TOKENS),
}
"""Objectives by name."""


def shapes_of(objective: str) -> tuple[Shape, ...] | None:
    """What a built-in objective trains on; None of one that is the user's own."""
    known = OBJECTIVES.get(objective)
    return None if known is None else known.shapes
