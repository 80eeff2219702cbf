"""Objectives by name."""

from __future__ import annotations

from typing import cast

from phaseline.config.plugins import load_attribute
from phaseline.objectives.base import Objective
from phaseline.objectives.causal_lm import CausalLM
from phaseline.objectives.sft import SupervisedFineTuning

_BUILT_IN: dict[str, type[Objective]] = {
    CausalLM.name: CausalLM,
    SupervisedFineTuning.name: SupervisedFineTuning,
}


def build_objective(name: str, *, path: str) -> Objective:
    """Returns the objective of a registered name or of `module:attribute`.

    Args:
        name: As in the configuration.
        path: Where it stands there, for messages.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]()
    return cast(Objective, load_attribute(name, path=path)())
