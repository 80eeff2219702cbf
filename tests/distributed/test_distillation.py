"""Distillation and metrics of the user's own on two ranks, in every engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from distributed.engine_cases import (
    ENGINES,
    VOCABULARY,
    Case,
    Mixed,
    batch_of,
    engine_of,
    model_of,
    optimizer_of,
    pieces,
    put_together,
    rows_of,
    settings_of,
)
from distributed.ranks import run_ranks
from phaseline.data.batch import Batch
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.distributed.world import World
from phaseline.objectives.distillation import Distillation
from phaseline.objectives.validation_metric import Seen
from phaseline.training.phases.held_out import HeldOutTotals
from phaseline.training.pipeline.frozen_models import freeze

STEPS, RANKS, WEIGHT, TEMPERATURE = 3, 2, 0.7, 1.5


class Accuracy:
    name = "accuracy"
    measures = ("right", "counted")
    needs_logits = True

    def sums(self, seen: Seen) -> torch.Tensor:
        assert seen.logits is not None
        right = (seen.logits.argmax(-1) == seen.tokens.targets) & seen.is_unit
        return torch.stack([right.sum(), seen.is_unit.sum()])

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"right": sums["right"], "counted": sums["counted"]}


def distilled(name: str, world: World) -> dict[str, Any]:
    """The weights after some steps, and what a validation says of them."""
    case = Case(engine=name, clip=None)
    objective = Distillation("models/large", WEIGHT, TEMPERATURE)
    objective.teach_with(freeze(Mixed(9), settings_of(case)))
    engine = engine_of(case, world)
    for step in range(STEPS):
        ids, targets = batch_of(step, case.micro * case.accumulation * RANKS)
        scale = RANKS / int((targets != -100).sum())
        for micro_step in range(case.accumulation):
            rows = rows_of(case, RANKS, micro_step, world.dp_rank)
            engine.begin_micro_step(is_last=micro_step == case.accumulation - 1)
            losses = objective.losses(engine.model, Batch(ids[rows], targets[rows], case.micro))
            engine.backward(losses.values.sum() * scale)
        engine.step()
    totals = HeldOutTotals(
        objective, torch.ones(VOCABULARY), [], ["only"], world.device, [Accuracy()]
    )
    engine.model.eval()
    ids, targets = batch_of(99, 5)
    first = slice(0, 3) if world.is_main else slice(3, 5)  # uneven, and the last has no targets
    with torch.no_grad():
        totals.look(engine.model, Batch(ids[first], targets[first], len(ids[first])))
    found = {"metrics": totals.metrics("p", world), "weights": pieces(engine)}
    engine.close()
    return found


def two_ranks() -> dict[str, Any]:
    environment = RankEnvironment.read()
    world = World(environment, Rendezvous(environment, timeout_s=120), collective_timeout_s=60)
    found = {name: distilled(name, world) for name in ENGINES}
    world.close()
    return found


@pytest.fixture(scope="module")
def facts() -> list[dict[str, Any]]:
    return run_ranks(two_ranks, RANKS, timeout_s=300)


@pytest.fixture(scope="module")
def reference() -> torch.nn.Module:
    """One process, the whole batch, the formula as it is written."""
    case = Case(engine="plain")
    model, teacher = model_of(case, 0), Mixed(9)
    optimizer = optimizer_of(model)
    for step in range(STEPS):
        ids, targets = batch_of(step, case.micro * case.accumulation * RANKS)
        logits = model(ids)
        with torch.no_grad():
            log_p = torch.log_softmax(teacher(ids) / TEMPERATURE, -1)
        log_q = torch.log_softmax(logits / TEMPERATURE, -1)
        divergence = (log_p.exp() * (log_p - log_q)).sum(-1)[targets != -100].sum()
        entropy = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="sum"
        )
        loss = (1 - WEIGHT) * entropy + WEIGHT * TEMPERATURE**2 * divergence
        (loss / (targets != -100).sum()).backward()  # type: ignore[no-untyped-call]  # torch's
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_is_taught_the_same(
    facts: list[dict[str, Any]], reference: torch.nn.Module, name: str
) -> None:
    found = put_together([rank[name]["weights"] for rank in facts])
    for parameter, values in reference.named_parameters():
        expected = values.detach().double().flatten().tolist()
        assert found[parameter] == pytest.approx(expected, abs=1e-5), parameter


@pytest.mark.parametrize("name", ENGINES)
def test_own_metric_is_exact_over_uneven_ranks(
    facts: list[dict[str, Any]], reference: torch.nn.Module, name: str
) -> None:
    first, second = (rank[name]["metrics"] for rank in facts)
    assert first == second
    ids, targets = batch_of(99, 5)
    with torch.no_grad():
        logits = reference.eval()(ids)
    assert first["p/counted"] == int((targets != -100).sum())
    assert first["p/right"] == int((logits.argmax(-1) == targets).sum())
    entropy = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert first["p/cross_entropy"] == pytest.approx(float(entropy), rel=1e-4)
    assert first["p/perplexity"] == pytest.approx(float(entropy.exp()), rel=1e-4)
