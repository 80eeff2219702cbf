"""Objectives by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

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
