from __future__ import annotations

import pytest

from phaseline.config.sections import PhaseSection
from phaseline.errors import ConfigurationError
from phaseline.training.phases.plan import PhasePlan

PHASE = """{"name": "only", "objective": "causal_lm", "duration": "2 epochs",
  "data": {"sources": [{"source": "python_stdlib"}], "sequence_length": 16},
  "batch": {"global_size": 8, "micro_size": 4}, "optimizer": {"lr": 1e-3}}"""


def test_plan_refuses_a_position_when_its_length_is_passed() -> None:
    plan = PhasePlan.derive(
        PhaseSection.model_validate_json(PHASE),
        tokens_per_step=128,
        steps_per_epoch=3.0,
        interval_steps=1,
    )
    plan.require_not_over(6, path="phases[0]")
    with pytest.raises(
        ConfigurationError, match=r"phases\[0\]\.duration comes to 6 steps, and 7 are done"
    ):
        plan.require_not_over(7, path="phases[0]")
