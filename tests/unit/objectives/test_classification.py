"""Classification against a reference in plain Python, and its measures over any batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from phaseline.data.batch import LabelledBatch
from phaseline.objectives import Objective, build_objective
from phaseline.objectives.base import IGNORED_TARGET
from phaseline.objectives.classification import Classification
from phaseline.training.phases.held_out import HeldOutTotals

NUM_BINS = 15


class Given(torch.nn.Module):
    """Its inputs are its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * self.scale


class Sums:
    """Adds up what several ranks have, as a collective does."""

    def __init__(self, others: Sequence[torch.Tensor]) -> None:
        self.others = others

    def all_reduce_sum(self, mine: torch.Tensor) -> torch.Tensor:
        return mine + sum(self.others)


def made(num_rows: int, num_classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num_rows, num_classes, generator=generator)
    return logits, torch.randint(num_classes, (num_rows,), generator=generator)


def batch_of(logits: torch.Tensor, labels: torch.Tensor, num_filler: int = 0) -> LabelledBatch:
    inputs = torch.cat([logits, torch.zeros(num_filler, logits.shape[1])])
    filler = torch.full((num_filler,), IGNORED_TARGET)
    return LabelledBatch(inputs, torch.cat([labels, filler]), len(logits))


def reference_loss(
    logits: list[float], label: int, smoothing: float, weights: Sequence[float]
) -> float:
    """The cross entropy with a target that is spread, each class times its weight."""
    total = math.fsum(map(math.exp, logits))
    losses = [-w * (value - math.log(total)) for w, value in zip(weights, logits, strict=True)]
    return (1 - smoothing) * losses[label] + smoothing * math.fsum(losses) / len(losses)


def reference_calibration(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Accuracy, and the calibration error by its definition: a mean weighted by bin sizes."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(NUM_BINS)]
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        total = math.fsum(map(math.exp, row))
        confidence = max(map(math.exp, row)) / total
        idx = next(b for b in range(NUM_BINS) if confidence <= (b + 1) / NUM_BINS)
        bins[idx].append((confidence, row.index(max(row)) == label))
    num = sum(map(len, bins))
    error = 0.0
    for members in filter(None, bins):
        accuracy = sum(right for _, right in members) / len(members)
        confidence = math.fsum(c for c, _ in members) / len(members)
        error += len(members) / num * abs(accuracy - confidence)
    return sum(right for members in bins for _, right in members) / num, error


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 4.0]])
def test_losses_equal_the_reference_and_filler_has_none(
    smoothing: float, weights: list[float] | None
) -> None:
    logits, labels = made(9, 4)
    objective = Classification(label_smoothing=smoothing, class_weights=weights)
    losses = objective.losses(Given(), batch_of(logits, labels, 3))
    expected = [
        reference_loss(row, label, smoothing, weights or [1.0] * 4)
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    assert losses.values.shape == (12, 1)
    assert losses.values.dtype == torch.float32
    assert losses.values[:9, 0].tolist() == pytest.approx(expected, rel=1e-5)
    assert not losses.values[9:].any()
    assert losses.is_unit is not None
    assert losses.is_unit.flatten().tolist() == [True] * 9 + [False] * 3


def test_gradient_of_filler_is_nothing() -> None:
    logits, labels = made(5, 3)
    gradients = []
    for num_filler in (0, 4):
        model = Given()
        Classification().losses(model, batch_of(logits, labels, num_filler)).values.sum().backward()  # type: ignore[no-untyped-call]
        assert model.scale.grad is not None
        gradients.append(model.scale.grad)
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=0)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 64, 200])
@pytest.mark.parametrize("num_ranks", [1, 3])
def test_held_out_metrics_are_exact_over_batches_ranks_and_uneven_ends(
    batch_size: int, num_ranks: int
) -> None:
    logits, labels = made(131, 6, seed=3)
    objective, model = Classification(), Given().eval()
    ranks = [_totals(objective) for _ in range(num_ranks)]
    for turn, first in enumerate(range(0, 131, batch_size)):
        here = slice(first, first + batch_size)
        part = logits[here]
        batch = batch_of(part, labels[here], batch_size - len(part))
        ranks[turn % num_ranks].add(objective.losses(model, batch), batch)
    world: Any = Sums([rank._totals for rank in ranks[1:]])
    found = ranks[0].metrics("p/validation", world)
    accuracy, error = reference_calibration(logits, labels)
    losses = [
        reference_loss(row, label, 0.0, [1.0] * 6)
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    assert set(found) == {
        "p/validation/loss",
        "p/validation/accuracy",
        "p/validation/calibration_error",
    }
    assert found["p/validation/accuracy"] == accuracy
    assert found["p/validation/calibration_error"] == pytest.approx(error, abs=1e-6)
    assert found["p/validation/loss"] == pytest.approx(math.fsum(losses) / 131, rel=1e-6)
    assert 0.02 < error < 0.9


def _totals(objective: Objective) -> HeldOutTotals:
    return HeldOutTotals(objective, torch.ones(300), (), ("one",), torch.device("cpu"))


def test_mixture_reports_the_loss_of_each_source() -> None:
    logits, labels = made(8, 3)
    sources = torch.tensor([0, 1] * 4)
    batch = LabelledBatch(logits, labels, 8, None, sources)
    objective = Classification()
    totals = HeldOutTotals(objective, torch.ones(3), (), ("a", "b"), torch.device("cpu"))
    losses = objective.losses(Given().eval(), batch)
    totals.add(losses, batch)
    world: Any = Sums([torch.zeros(())])
    found = totals.metrics("v", world)
    for idx, name in enumerate("ab"):
        mean = losses.values.detach()[sources == idx].double().mean()
        assert found[f"v/loss_{name}"] == pytest.approx(float(mean))


def test_confidence_on_an_edge_falls_into_the_bin_below_and_certainty_into_the_last() -> None:
    objective = Classification()
    logits = torch.tensor([[0.0, 0.0, 0.0], [90.0, 0.0, 0.0], [math.log(2.0), 0.0, -200.0]])
    labels = torch.tensor([2, 0, 1])
    measures = objective.losses(Given().eval(), batch_of(logits, labels)).measures
    assert measures is not None
    gaps = measures[1:].tolist()
    # 1/3 is the upper edge of the fifth bin, 2/3 of the tenth.
    assert gaps[4] == pytest.approx(-1 / 3)
    assert gaps[9] == pytest.approx(-2 / 3)
    assert gaps[14] == pytest.approx(0.0)
    assert sum(value != 0 for value in gaps) == 2


def test_training_reports_accuracy_alone() -> None:
    logits, labels = made(20, 4)
    objective = Classification()
    losses = objective.losses(Given().train(), batch_of(logits, labels, 2))
    assert losses.measures is not None
    names = objective.measures
    means = dict(zip(names, (losses.measures / 20).tolist(), strict=True))
    share = (logits.argmax(dim=1) == labels).double().mean()
    assert objective.metrics({"loss": 1.0, **means}) == {"accuracy": pytest.approx(float(share))}


def test_calibration_is_measured_when_only_what_an_engine_wraps_is_evaluated() -> None:
    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = Given()

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.module(inputs)
            return found

    model = Wrapper()
    model.module.eval()
    assert model.training
    measures = Classification().losses(model, batch_of(*made(20, 4))).measures
    assert measures is not None
    assert measures.isfinite().all()


def test_text_model_is_told_what_its_forward_asks_for() -> None:
    told: dict[str, Any] = {}

    class Reader(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2))

        def forward(
            self, ids: torch.Tensor, attention_mask: torch.Tensor, lengths: torch.Tensor
        ) -> torch.Tensor:
            told.update(ids=ids, mask=attention_mask, lengths=lengths)
            return self.weight.expand(len(ids), 2)

    ids = torch.tensor([[5, 6, 7, 0], [8, 0, 0, 0]])
    batch = LabelledBatch(ids, torch.tensor([0, 1]), 2, torch.tensor([3, 1]))
    values = Classification().losses(Reader(), batch).values
    assert told["mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert told["lengths"].tolist() == [3, 1]
    assert torch.equal(told["ids"], ids)
    assert values.flatten().tolist() == pytest.approx([math.log(2)] * 2)


def test_numbers_reach_a_model_in_the_type_of_its_weights() -> None:
    logits, labels = made(4, 3)
    values = Classification().losses(Given().bfloat16(), batch_of(logits, labels)).values
    assert values.dtype == torch.float32
    assert values.isfinite().all()


def test_objective_is_built_by_its_name() -> None:
    arguments = {"label_smoothing": 0.1, "class_weights": [1.0, 2.0]}
    objective = build_objective("classification", arguments, path="phases[0].objective")
    assert isinstance(objective, Classification)
    assert (objective.normaliser, objective.num_weights) == ("samples", 2)
