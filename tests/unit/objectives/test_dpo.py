from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from phaseline.data.batch import Batch
from phaseline.models.linear_loss import install_linear_loss
from phaseline.objectives.dpo import DirectPreferenceOptimization
from unit.objectives.preference_rows import (
    Given,
    batches_of,
    drawn_answers,
    filler_of,
    lengths_alone,
    logps_alone,
    rows_of,
    tiny_llama,
)

VARIANTS: dict[str, dict[str, Any]] = {
    "sigmoid": {},
    "sigmoid, another beta": {"beta": 0.7},
    "smoothed": {"beta": 0.5, "label_smoothing": 0.2},
    "ipo": {"loss": "ipo"},
    "sigmoid of means": {"beta": 2.0, "length_normalised": True},
    "ipo of means": {"loss": "ipo", "beta": 0.4, "length_normalised": True},
}


def reference(
    policy: torch.Tensor,
    frozen: torch.Tensor,
    *,
    beta: float = 0.1,
    loss: str = "sigmoid",
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """The papers' formulas in numbers of twice the length. [pairs]"""
    gained = policy.double() - frozen.double()
    ahead = gained[:, 0] - gained[:, 1]
    if loss == "ipo":
        return (ahead - 0.5 / beta) ** 2
    wins, loses = 1 / (1 + torch.exp(-beta * ahead)), 1 / (1 + torch.exp(beta * ahead))
    return -(1 - label_smoothing) * wins.log() - label_smoothing * loses.log()


def attached(batches: Iterator[Batch], logps: torch.Tensor) -> Iterator[Batch]:
    """Batches with the reference's log-probabilities, by the numbers of their pairs."""
    for batch in batches:
        assert batch.pair_ids is not None
        yield replace(batch, reference_logps=logps[batch.pair_ids.clamp(min=0)])


# What `DPOTrainer.dpo_loss` of TRL 0.15.2 returned for these numbers.
POLICY = [-10.25, -12.0, -31.5, -30.0, -7.0, -7.0, -2.125, -40.0]
FROZEN = [-11.0, -11.5, -29.0, -33.75, -7.0, -7.0, -20.5, -19.0]
TRL = [
    ({"beta": 0.1}, [0.632599, 1.053701, 0.693147, 0.019309]),
    ({"beta": 0.5}, [0.428701, 3.167999, 0.693147, 0.0]),
    ({"beta": 0.1, "label_smoothing": 0.1}, [0.645099, 0.991201, 0.693147, 0.413059]),
    ({"beta": 0.5, "label_smoothing": 0.3}, [0.616201, 2.230499, 0.693147, 5.90625]),
    ({"loss": "ipo", "beta": 0.1}, [14.0625, 126.5625, 25.0, 1181.640625]),
    ({"loss": "ipo", "beta": 0.5}, [0.0625, 52.5625, 1.0, 1472.640625]),
]


@pytest.mark.parametrize(("arguments", "expected"), TRL)
def test_losses_and_measures_are_those_of_trl(
    arguments: dict[str, Any], expected: list[float]
) -> None:
    answers = drawn_answers(4)
    frozen = torch.tensor(FROZEN).view(-1, 2)
    objective, model = DirectPreferenceOptimization(**arguments), Given(POLICY, answers)
    [batch] = attached(batches_of(rows_of(answers)), frozen)
    model.batch = batch
    losses = objective.losses(model, batch)
    assert losses.is_unit is not None
    assert losses.values.dtype == torch.float32
    assert batch.pair_ids is not None
    order = batch.pair_ids[losses.is_unit].argsort()
    torch.testing.assert_close(
        losses.values[losses.is_unit][order], torch.tensor(expected), rtol=1e-5, atol=1e-5
    )
    assert losses.measures is not None
    means = dict(zip(objective.measures, (losses.measures / 4).tolist(), strict=True))
    beta = arguments["beta"]
    assert (
        means
        == pytest.approx(
            {
                "accuracy": 2 / 4,  # a tie prefers nothing
                "margin": beta * (1.25 - 6.25 + 0 + 39.375) / 4,
                "reward_chosen": beta * (0.75 - 2.5 + 0 + 18.375) / 4,
                "reward_rejected": beta * (-0.5 + 3.75 + 0 - 21) / 4,
                "logp_chosen": sum(POLICY[::2]) / 4,
                "logp_rejected": sum(POLICY[1::2]) / 4,
            },
            rel=1e-5,
        )
    )
    assert objective.metrics({"loss": 1.0, **means}) == means


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("micro_size", [1, 3, None])
@pytest.mark.parametrize("is_packed", [True, False])
def test_losses_are_those_of_each_answer_alone_however_rows_are_laid(
    name: str, micro_size: int | None, is_packed: bool
) -> None:
    arguments = dict(VARIANTS[name])
    answers, policy, frozen = drawn_answers(9), tiny_llama(0), tiny_llama(1)
    objective = DirectPreferenceOptimization(**arguments)
    with torch.no_grad():
        policy_logps, frozen_logps = (logps_alone(m, answers) for m in (policy, frozen))
        rows = rows_of(answers, is_packed=is_packed)
        assert (rows.num_rows < 9) is is_packed
        found = torch.zeros(9)
        for batch in attached(batches_of(rows, micro_size), frozen_logps):
            losses = objective.losses(policy, batch)
            assert batch.pair_ids is not None
            found[batch.pair_ids[losses.is_unit]] = losses.values[losses.is_unit]
            assert not losses.values[batch.pair_ids < 0].any()
    if arguments.pop("length_normalised", False):
        lengths = lengths_alone(answers)
        policy_logps, frozen_logps = policy_logps / lengths, frozen_logps / lengths
    expected = reference(policy_logps, frozen_logps, **arguments).float()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("has_linear_loss", [False, True])
def test_gradient_is_that_of_each_answer_alone(has_linear_loss: bool) -> None:
    answers, policy = drawn_answers(6), tiny_llama(0)
    with torch.no_grad():
        frozen_logps = logps_alone(tiny_llama(1), answers)
    names, parameters = zip(*policy.named_parameters(), strict=True)
    alone = reference(logps_alone(policy, answers), frozen_logps).sum().float()
    expected = torch.autograd.grad(alone, parameters)
    if has_linear_loss:
        install_linear_loss(policy, path="")
    [batch] = attached(batches_of(rows_of(answers), num_filler=1), frozen_logps)
    losses = DirectPreferenceOptimization().losses(policy, batch)
    found = torch.autograd.grad(losses.values.sum(), parameters)
    for name, one, other in zip(names, found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", ["sigmoid", "smoothed"])
def test_loss_is_ln_2_when_the_policy_is_its_own_reference(name: str) -> None:
    answers, policy = drawn_answers(6), tiny_llama(0)
    with torch.no_grad():
        [batch] = attached(batches_of(rows_of(answers)), logps_alone(policy, answers))
        losses = DirectPreferenceOptimization(**VARIANTS[name]).losses(policy, batch)
    assert losses.values[losses.is_unit].tolist() == [pytest.approx(math.log(2), abs=2e-5)] * 6


@pytest.mark.parametrize("name", VARIANTS)
def test_filler_has_no_loss_and_can_be_trained_on(name: str) -> None:
    answers, policy = drawn_answers(6), tiny_llama(0)
    batch = replace(filler_of(rows_of(answers), 2), reference_logps=torch.zeros(2, 1, 2))
    losses = DirectPreferenceOptimization(**VARIANTS[name]).losses(policy, batch)
    loss = losses.values.sum()
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
    assert losses.values.tolist() == [[0.0], [0.0]]
    assert losses.is_unit is not None
    assert not losses.is_unit.any()
    assert losses.measures is not None
    assert losses.measures.tolist() == [0.0] * 6
    assert all(p.grad is not None and not p.grad.any() for p in policy.parameters())
