from __future__ import annotations

import math

import pytest

from phaseline.config.sections import PhaseSection
from phaseline.errors import ConfigurationError
from phaseline.training.phases.learning_rate import LearningRate
from phaseline.training.phases.plan import PhasePlan
from phaseline.training.phases.schedule import Schedule


def rate(shape: str, **changes: float) -> LearningRate:
    values: dict[str, float] = {
        "num_steps": 100,
        "warmup_steps": 10,
        "decay_steps": 20,
        "final_frac": 0.1,
        **changes,
    }
    return LearningRate(
        shape=shape,
        peak=0.02,
        num_steps=int(values["num_steps"]),
        warmup_steps=int(values["warmup_steps"]),
        decay_steps=int(values["decay_steps"]),
        final_frac=values["final_frac"],
    )


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine", "wsd", "inverse_sqrt"])
def test_learning_rate_warms_up_in_proportion_whatever_the_shape(shape: str) -> None:
    curve = rate(shape)
    assert [curve(u) for u in (1, 5, 10)] == [0.02 * 1 / 10, 0.02 * 5 / 10, 0.02]


@pytest.mark.parametrize("shape", ["linear", "cosine", "wsd"])
@pytest.mark.parametrize("final_frac", [0.0, 0.1, 1.0])
def test_learning_rate_ends_exactly_as_configured_when_it_decays(
    shape: str, final_frac: float
) -> None:
    assert rate(shape, final_frac=final_frac)(100) == 0.02 * final_frac


def test_learning_rate_follows_its_formula_between() -> None:
    assert rate("constant")(55) == 0.02
    assert rate("linear")(55) == pytest.approx(0.02 * 0.55)
    assert rate("cosine")(55) == pytest.approx(0.02 * 0.55)
    assert rate("cosine")(28) == pytest.approx(
        0.02 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 18 / 90)))
    )
    assert rate("wsd")(80) == 0.02
    assert rate("wsd")(90) == pytest.approx(0.02 * 0.55)
    assert rate("inverse_sqrt")(40) == pytest.approx(0.02 * 0.5)


@pytest.mark.parametrize("shape", ["linear", "cosine", "wsd"])
def test_learning_rate_never_rises_after_warm_up_when_it_decays(shape: str) -> None:
    curve = [rate(shape)(u) for u in range(10, 101)]
    assert curve == sorted(curve, reverse=True)


def test_schedule_is_due_at_multiples_only() -> None:
    assert [step for step in range(10) if Schedule(3).due(step)] == [3, 6, 9]
    assert not any(Schedule(None).due(step) for step in range(10))


def phase(**changes: object) -> PhaseSection:
    return PhaseSection.model_validate(
        {
            "name": "a",
            "objective": "causal_lm",
            "duration": "6400 tokens",
            "data": {"sources": [{"source": "python_stdlib"}], "sequence_length": 16},
            "batch": {"global_size": 4, "micro_size": 2},
            "optimizer": {"lr": 0.1},
            **changes,
        }
    )


def test_plan_turns_every_unit_into_steps() -> None:
    plan = PhasePlan.derive(
        phase(
            schedule={"warmup": "640 tokens"},
            evaluate={"every": "20 steps"},
            checkpoint={"every": "1280 tokens"},
        ),
        tokens_per_step=64,
        steps_per_epoch=12.5,
        interval_steps=7,
    )
    assert plan.num_steps == 100
    assert plan.learning_rate.warmup_steps == 10
    assert (plan.validation.every, plan.checkpoint.every, plan.reading.every) == (20, 20, 7)


def test_plan_rounds_epochs_up_when_they_do_not_divide() -> None:
    plan = PhasePlan.derive(
        phase(duration="2 epochs"), tokens_per_step=64, steps_per_epoch=12.6, interval_steps=1
    )
    assert plan.num_steps == 26


def test_plan_is_refused_when_warm_up_is_longer_than_the_phase() -> None:
    with pytest.raises(ConfigurationError, match="warms up for 101 steps and decays for 0"):
        PhasePlan.derive(
            phase(schedule={"warmup": "101 steps"}),
            tokens_per_step=64,
            steps_per_epoch=None,
            interval_steps=1,
        )
