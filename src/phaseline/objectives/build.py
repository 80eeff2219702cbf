"""Objectives by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from phaseline.config.known import Shape
from phaseline.config.known_sources import SHAPE_WORDS
from phaseline.config.plugins import load_attribute
from phaseline.errors import ConfigurationError, Fault
from phaseline.objectives.base import Objective
from phaseline.objectives.causal_lm import CausalLM
from phaseline.objectives.classification import Classification
from phaseline.objectives.distillation import Distillation
from phaseline.objectives.dpo import DirectPreferenceOptimization
from phaseline.objectives.reward_model import RewardModel
from phaseline.objectives.sft import SupervisedFineTuning

_BUILT_IN: dict[str, type[Objective]] = {
    CausalLM.name: CausalLM,
    Distillation.name: Distillation,
    DirectPreferenceOptimization.name: DirectPreferenceOptimization,
    RewardModel.name: RewardModel,
    SupervisedFineTuning.name: SupervisedFineTuning,
    Classification.name: Classification,
}


def require_shape(objective: Objective, shape: Shape, *, path: str) -> None:
    """Raises unless an objective trains on samples of a shape.

    Args:
        objective: The objective; one of the user's own says its shapes only when it is built.
        shape: Of the phase's data.
        path: Where the objective stands in the configuration, for messages.

    Raises:
        ConfigurationError: It does not, or does not say what it trains on.
    """
    shapes: tuple[str, ...] | None = getattr(objective, "shapes", None)
    if shapes is None:
        problem = f"is {type(objective).__name__}, which does not say what data it trains on"
        fix = "Give the class `shapes`, as in `shapes = ('text', 'pairs')`."
        raise ConfigurationError([Fault(path, "", problem, fix)])
    if shape not in shapes:
        problem = (
            f"is {objective.name}, whose `shapes` are {', '.join(shapes)}, but the "
            f"phase's data are {SHAPE_WORDS[shape]} (`{shape}`)"
        )
        fix = "Name data of such a shape, or another objective."
        raise ConfigurationError([Fault(path, "", problem, fix)])


def build_objective(
    name: str, arguments: Mapping[str, Any] | None = None, *, path: str
) -> Objective:
    """Returns the objective of a registered name or of `module:attribute`.

    Args:
        name: As in the configuration.
        arguments: What it is called with.
        path: Where it stands there, for messages.

    Raises:
        ConfigurationError: It cannot be imported, or does not take the arguments.
    """
    build = _BUILT_IN[name] if name in _BUILT_IN else load_attribute(name, path=path)
    try:
        return cast(Objective, build(**(arguments or {})))
    except TypeError as error:
        problem = f"is {dict(arguments or {})!r}, which {name} does not take: {error}"
        fault = Fault(f"{path}_arguments", "", problem, "Correct the arguments.")
        raise ConfigurationError([fault]) from error
