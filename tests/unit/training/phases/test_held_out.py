from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch

from phaseline.data.batch import Batch
from phaseline.distributed.world import World
from phaseline.objectives.base import Losses, Normaliser, TokenObjective
from phaseline.objectives.causal_lm import CausalLM
from phaseline.training.phases.held_out import HeldOutTotals

CPU = torch.device("cpu")
TOKEN_BYTES = torch.tensor([1, 2, 0, 5])


def batch_of(targets: torch.Tensor) -> Batch:
    return Batch(torch.zeros_like(targets), targets, len(targets))


def totals_of(
    losses: torch.Tensor, targets: torch.Tensor, size: int, *ranges: str
) -> HeldOutTotals:
    totals = HeldOutTotals(CausalLM(), TOKEN_BYTES, ranges, ["only"], CPU)
    for first in range(0, len(losses), size):
        rows = slice(first, first + size)
        totals.add(Losses(losses[rows]), batch_of(targets[rows]))
    return totals


def test_totals_are_the_means_taken_by_hand(world: World) -> None:
    targets = torch.tensor([[0, 1, -100], [3, 2, 1]])
    losses = torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 5.0]])
    found = totals_of(losses, targets, 2, "0-0", "1-2").metrics("a/validation", world)
    num_bytes = 1 + 2 + 5 + 0 + 2
    assert found == {
        "a/validation/loss": pytest.approx(15 / 5),
        "a/validation/perplexity": pytest.approx(math.exp(15 / 5)),
        "a/validation/bits_per_byte": pytest.approx(15 / math.log(2) / num_bytes),
        "a/validation/loss_at_0_to_0": pytest.approx((1 + 3) / 2),
        "a/validation/loss_at_1_to_2": pytest.approx((2 + 4 + 5) / 3),
    }


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_totals_are_equal_for_any_split_into_batches(world: World, size: int) -> None:
    torch.manual_seed(0)
    targets = torch.randint(4, (6, 8))
    targets[torch.rand(6, 8) < 0.3] = -100
    losses = torch.rand(6, 8) * (targets != -100)
    whole = totals_of(losses, targets, 6, "2-4").metrics("p", world)
    assert totals_of(losses, targets, size, "2-4").metrics("p", world) == pytest.approx(whole)


def test_totals_do_not_count_rows_that_fill_a_batch_up(world: World) -> None:
    losses, targets = torch.tensor([[2.0], [0.0]]), torch.tensor([[1], [-100]])
    assert totals_of(losses, targets, 2).metrics("p", world)["p/loss"] == 2.0


def test_totals_can_be_read_twice(world: World) -> None:
    totals = totals_of(torch.tensor([[2.0]]), torch.tensor([[1]]), 1)
    assert totals.metrics("p", world) == totals.metrics("p", world)


def test_totals_are_nan_and_name_no_range_when_nothing_was_counted(world: World) -> None:
    found = HeldOutTotals(CausalLM(), TOKEN_BYTES, ["4-5"], ["only"], CPU).metrics("p", world)
    assert list(found) == ["p/loss"]
    assert math.isnan(found["p/loss"])


def test_range_is_left_out_when_no_sequence_reaches_it(world: World) -> None:
    totals = totals_of(torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.int64), 1, "0-1", "8-9")
    assert "p/loss_at_8_to_9" not in totals.metrics("p", world)


def sources_of(num_rows: int) -> torch.Tensor:
    return torch.arange(num_rows) % 3


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
@pytest.mark.parametrize("micro_size", [1, 3, 8])
@pytest.mark.parametrize("more", [None, -1, 0, 1])
def test_every_example_counts_once_for_any_ranks_batches_and_sizes(
    world: World, num_ranks: int, micro_size: int, more: int | None
) -> None:
    # One example alone, which is fewer than ranks, and around what fits all ranks at once.
    size = 1 if more is None else max(1, num_ranks * micro_size + more)
    torch.manual_seed(size)
    losses, targets = torch.rand(size, 5), torch.randint(4, (size, 5))
    sources = sources_of(size)
    totals = HeldOutTotals(CausalLM(), TOKEN_BYTES, ["1-3"], ["a", "b", "c"], CPU)
    for batch_idx in range(-(-size // (num_ranks * micro_size))):
        for rank in range(num_ranks):
            first = (batch_idx * num_ranks + rank) * micro_size
            rows = slice(first, first + micro_size)
            missing = micro_size - len(losses[rows])
            filled = torch.nn.functional.pad
            totals.add(
                Losses(filled(losses[rows], (0, 0, 0, missing))),
                Batch(
                    torch.zeros(micro_size, 5, dtype=torch.int64),
                    filled(targets[rows], (0, 0, 0, missing), value=-100),
                    micro_size - missing,
                    source_ids=filled(sources[rows], (0, missing)),
                ),
            )
    expected = {
        "p/loss": losses.mean().item(),
        "p/perplexity": math.exp(losses.mean().item()),
        "p/loss_at_1_to_3": losses[:, 1:4].mean().item(),
        **{
            f"p/loss_{name}": losses[sources == idx].mean().item()
            for idx, name in enumerate("abc")
            if idx < size
        },
    }
    found = totals.metrics("p", world)
    found.pop("p/bits_per_byte", None)
    assert found == pytest.approx(expected, rel=1e-6)


def test_ranges_are_of_positions_in_the_document_when_rows_hold_several(world: World) -> None:
    losses, targets = torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.zeros(1, 4, dtype=torch.int64)
    totals = HeldOutTotals(CausalLM(), TOKEN_BYTES, ["0-0", "1-1", "2-2"], ["only"], CPU)
    positions = torch.tensor([[0, 1, 0, 1]])
    totals.add(Losses(losses), Batch(targets, targets, 1, position_ids=positions))
    found = totals.metrics("p", world)
    assert found["p/loss_at_0_to_0"] == 2.5
    assert found["p/loss_at_1_to_1"] == 5.0
    assert "p/loss_at_2_to_2" not in found


class Pairs(TokenObjective):
    """Counts pairs, and whether each was told right."""

    name = "pairs"
    normaliser: Normaliser = "pairs"
    measures: tuple[str, ...] = ("accuracy", "margin")

    def metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        return {"accuracy": means["accuracy"], "margin_over_loss": means["margin"] / means["loss"]}


def test_losses_of_pairs_are_means_over_pairs_and_say_nothing_of_bytes(world: World) -> None:
    totals = HeldOutTotals(Pairs(), TOKEN_BYTES, [], ["a", "b"], CPU)
    values = torch.tensor([[1.0, 3.0], [8.0, 0.0]])
    is_unit = torch.tensor([[True, True], [True, False]])
    batch = Batch(
        torch.zeros(2, 4, dtype=torch.int64),
        torch.zeros(2, 4, dtype=torch.int64),
        2,
        source_ids=torch.tensor([0, 1]),
    )
    totals.add(Losses(values, is_unit, torch.tensor([2.0, 24.0])), batch)
    assert totals.metrics("p", world) == {
        "p/loss": 4.0,
        "p/accuracy": pytest.approx(2 / 3),
        "p/margin_over_loss": 2.0,
        "p/loss_a": 2.0,
        "p/loss_b": 8.0,
    }
