"""The objectives that are built in: what each trains on, takes and measures.

Kept here as data, so that a session file can be checked without importing what it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from phaseline.config.bounds import MAX_ARGUMENT
from phaseline.config.known import FLAG, POSITIVE, Argument, Shape, choice, is_frac, is_positive
from phaseline.config.path_text import require_path

Head = Literal["language", "reward", "classes"]
"""What a model says: the next token at every position, there what the answer is worth so far, or
the class of every sample."""


@dataclass(frozen=True)
class KnownObjective:
    """One objective.

    Attributes:
        shapes: Of the sources that it trains on.
        metrics: What a validation measures besides `loss`.
        arguments: What `objective_arguments` may hold.
        unit: What its losses are of.
        head: What its model says.
    """

    shapes: tuple[Shape, ...]
    metrics: tuple[str, ...] = ()
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    unit: str = "tokens"
    head: Head = "language"


def _is_place(value: object) -> bool:
    if not isinstance(value, str) or not value:
        return False
    try:
        require_path(value)
    except ValueError:
        return False
    return True


def _is_smoothing(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 0.5


def _is_share(value: object) -> bool:
    return is_positive(value) and isinstance(value, (int, float)) and value <= 1


def _are_positive(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 1 and all(map(is_positive, value))


_OF_TOKENS = ("perplexity", "bits_per_byte")
_OF_REWARDS = ("accuracy", "margin", "reward_chosen", "reward_rejected")

OBJECTIVES: Mapping[str, KnownObjective] = {
    "causal_lm": KnownObjective(("text",), _OF_TOKENS),
    "distillation": KnownObjective(
        ("text", "pairs", "chats"),
        (*_OF_TOKENS, "cross_entropy", "kl"),
        {
            "teacher": Argument(
                "phase:NAME, hub:NAME or a path", _is_place, "phase:pretrain", True
            ),
            "weight": Argument("a number greater than 0 and at most 1", _is_share, "0.5"),
            "temperature": replace(POSITIVE, example="2.0"),
            "direction": replace(choice("forward", "reverse"), example="reverse"),
        },
    ),
    "sft": KnownObjective(("pairs", "chats"), _OF_TOKENS),
    "dpo": KnownObjective(
        ("preferences",),
        (*_OF_REWARDS, "logp_chosen", "logp_rejected"),
        {
            "beta": POSITIVE,
            "loss": choice("sigmoid", "ipo"),
            "label_smoothing": Argument("a number from 0 to less than 0.5", _is_smoothing, "0.1"),
            "length_normalised": FLAG,
            "reference": choice("precomputed", "memory"),
        },
        unit="pairs",
    ),
    "reward_model": KnownObjective(("preferences",), _OF_REWARDS, unit="pairs", head="reward"),
    "classification": KnownObjective(
        ("labelled",),
        ("accuracy", "calibration_error"),
        {
            "label_smoothing": Argument("a number from 0 to less than 1", is_frac, "0.1"),
            "class_weights": Argument(
                f"a list of at least two numbers greater than 0 and at most {MAX_ARGUMENT}, one for "
                "each class",
                _are_positive,
                "[1.0, 2.5]",
            ),
        },
        unit="samples",
        head="classes",
    ),
}
"""Objectives by name."""


def shapes_of(objective: str) -> tuple[Shape, ...] | None:
    """What a built-in objective trains on; None of one that is the user's own."""
    known = OBJECTIVES.get(objective)
    return None if known is None else known.shapes


def loss_kind(objective: str) -> str:
    """What the losses of an objective are; those of one kind can be compared."""
    known = OBJECTIVES.get(objective)
    if known is None:
        return f"{objective} loss"
    if objective in ("causal_lm", "sft"):
        return "loss, nats per token"
    return f"{objective} loss, nats per {known.unit.removesuffix('s')}"


def counts_pairs(objective: str) -> bool:
    """Whether a built-in objective's losses are of pairs of answers."""
    known = OBJECTIVES.get(objective)
    return known is not None and known.unit == "pairs"


def head_of(objective: str) -> Head:
    """What the model of an objective says; one of the user's own has a language model."""
    known = OBJECTIVES.get(objective)
    return "language" if known is None else known.head
