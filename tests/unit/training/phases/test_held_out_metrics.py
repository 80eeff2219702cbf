"""Metrics of the user's own, exact over ranks, sizes and uneven ends."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from phaseline.data.batch import Batch, LabelledBatch
from phaseline.distributed.world import World
from phaseline.errors import ConfigurationError
from phaseline.objectives.causal_lm import CausalLM
from phaseline.objectives.classification import Classification
from phaseline.objectives.validation_metric import Seen
from phaseline.training.phases.held_out import HeldOutTotals
from phaseline.training.phases.phase_manager import TrainingPhaseManager
from unit.training.phases.phase_runtimes import RuntimeMaker, records_of

CPU = torch.device("cpu")
VOCABULARY = 6


class Table(torch.nn.Module):
    """Answers a token with a row of logits; counts its forwards."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.rows = torch.randn(VOCABULARY, VOCABULARY, generator=generator)
        self.forwards = 0

    def forward(self, input_ids: torch.Tensor) -> Any:
        self.forwards += 1
        return SimpleNamespace(logits=self.rows[input_ids])


class Accuracy:
    name = "accuracy"
    measures: tuple[str, ...] = ("right", "counted")
    needs_logits = True
    key = "accuracy"

    def sums(self, seen: Seen) -> torch.Tensor:
        assert seen.logits is not None
        right = (seen.logits.argmax(-1) == seen.tokens.targets) & seen.is_unit
        return torch.stack([right.sum(), seen.is_unit.sum()])

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {self.key: sums["right"] / sums["counted"]}


class Blind:
    """Looks at losses alone."""

    name = "blind"
    measures = ("largest_sum",)
    needs_logits = False

    def sums(self, seen: Seen) -> torch.Tensor:
        assert seen.logits is None
        return (seen.losses.values > 1.5).sum().view(1)

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"num_surprises": sums["largest_sum"]}


def totals(*metrics: Any) -> HeldOutTotals:
    ones = torch.ones(VOCABULARY)
    return HeldOutTotals(CausalLM(), ones, ["0-1"], ["a", "b"], CPU, metrics)


def examples(size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(size)
    inputs = torch.randint(VOCABULARY, (size, 5), generator=generator)
    targets = torch.randint(VOCABULARY, (size, 5), generator=generator)
    targets[torch.rand(size, 5, generator=generator) < 0.3] = -100
    targets[:, 0] = 2
    return inputs, targets, torch.arange(size) % 2


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("micro_size", [1, 3, 8])
@pytest.mark.parametrize("size", [1, 7, 8, 9])
def test_every_example_counts_once_for_any_ranks_batches_and_sizes(
    world: World, num_ranks: int, micro_size: int, size: int
) -> None:
    inputs, targets, sources = examples(size)
    found, model = totals(Accuracy()), Table()
    for first in range(
        0, -(-size // (num_ranks * micro_size)) * num_ranks * micro_size, micro_size
    ):
        rows = slice(first, first + micro_size)
        missing = micro_size - len(inputs[rows])
        pad = torch.nn.functional.pad
        found.look(
            model,
            Batch(
                pad(inputs[rows], (0, 0, 0, missing)),
                pad(targets[rows], (0, 0, 0, missing), value=-100),
                micro_size - missing,
                source_ids=pad(sources[rows], (0, missing)),
            ),
        )
    right = counted = 0
    for row, wanted in zip(inputs.flatten().tolist(), targets.flatten().tolist(), strict=True):
        if wanted != -100:
            counted += 1
            right += int(model.rows[row].tolist().index(max(model.rows[row].tolist())) == wanted)
    assert found.metrics("p", world)["p/accuracy"] == right / counted


def test_model_runs_once_for_a_batch_and_no_tap_is_there_unless_logits_are_wanted() -> None:
    inputs, targets, sources = examples(4)
    batch = Batch(inputs, targets, 4, source_ids=sources)
    model = Table()
    seeing, blind = totals(Accuracy()), totals(Blind())
    seeing.look(model, batch)
    assert model.forwards == 1
    blind.look(model, batch)
    assert model.forwards == 2


class SecondBest:
    """Of samples with a label."""

    name = "second"
    measures = ("right", "counted")
    needs_logits = True

    def sums(self, seen: Seen) -> torch.Tensor:
        assert seen.logits is not None
        second = seen.logits.argsort(dim=1, descending=True)[:, 1]
        return torch.stack([(second == seen.samples.labels).sum(), seen.is_unit.sum()])

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"second_best": sums["right"] / sums["counted"]}


def test_samples_with_a_label_are_seen_with_their_logits(world: World) -> None:
    model = torch.nn.Linear(2, 3, bias=False).eval()
    model.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    rows = torch.tensor([[3.0, 1.0], [1.0, 3.0], [2.0, 1.0], [0.0, 0.0]])
    batch = LabelledBatch(rows, torch.tensor([1, 1, 1, -100]), 3)
    found = HeldOutTotals(Classification(), torch.ones(1), [], ["a"], CPU, (SecondBest(),))
    with torch.no_grad():
        found.look(model, batch)
    means = found.metrics("p", world)
    assert (means["p/second_best"], means["p/accuracy"]) == (2 / 3, 1 / 3)


def test_name_that_a_validation_has_is_refused(world: World) -> None:
    inputs, targets, sources = examples(4)
    for key in ("perplexity", "loss_b", "loss_at_0_to_1", "duration_s"):
        metric = Accuracy()
        metric.key = key
        found = totals(metric)
        found.look(Table(), Batch(inputs, targets, 4, source_ids=sources))
        with pytest.raises(ConfigurationError, match=f"has accuracy, which reports {key}, and a"):
            found.metrics("p", world)


def test_sums_of_another_shape_are_refused_once_the_validation_is_done(world: World) -> None:
    inputs, targets, sources = examples(4)
    metric = Accuracy()
    metric.measures = ("right", "counted", "forgotten")
    found = totals(metric)
    found.look(Table(), Batch(inputs, targets, 4, source_ids=sources))
    with pytest.raises(ConfigurationError, match=r"sums have the shape \[2\]; it must be \[3\]"):
        found.metrics("p", world)
    assert found.metric_has_failed


def test_phase_records_its_metrics_and_they_do_not_depend_on_the_micro_size(
    maker: RuntimeMaker,
) -> None:
    found = []
    for micro_size in (1, 7):
        runtime = maker.make(evaluate={"micro_size": micro_size})
        runtime.metrics = (Accuracy(),)
        assert TrainingPhaseManager(runtime=runtime).validate() is not None
        [record] = records_of(runtime)
        found.append(record["metrics"]["only/validation/accuracy"])
        assert runtime.position.validation["accuracy"] == found[-1]
    assert 0 <= found[0] == found[1] < 1
