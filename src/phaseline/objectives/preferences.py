"""Both answers of every pair in rows of preferences, shared by the objectives on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch

from phaseline.objectives.base import (
    IGNORED_TARGET,
    Losses,
    ModelBatch,
    Normaliser,
    TokenBatch,
)
from phaseline.objectives.token_loss import token_cross_entropy


def answer_logps(model: torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
    """Runs the model and returns the log-probability of each answer, given its prompt.

    Args:
        model: As for `token_cross_entropy`; it must keep documents apart.
        batch: Rows of preferences.

    Returns:
        Sums over the answers' tokens in nats, chosen and then rejected; 0 where there is no
        pair. `[rows, pairs, 2]`, fp32
    """
    return -sum_of_answers(token_cross_entropy(model, batch), batch)


def answer_lengths(batch: TokenBatch) -> torch.Tensor:
    """Learnt tokens of each answer, at least 1. `[rows, pairs, 2]`, fp32"""
    is_learnt = batch.targets != IGNORED_TARGET
    return sum_of_answers(is_learnt.float(), batch).clamp(min=1.0)


def sum_of_answers(values: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
    """Adds up what each document of each pair has.

    Args:
        values: Of every input; 0 where there is no target. `[rows, time]`, fp32
        batch: Rows of preferences.

    Returns:
        `[rows, pairs, 2]`, fp32
    """
    shape = answers_shape(batch)
    slots = answer_slots(batch)
    # In one dimension, where an index_add has a deterministic form on every device.
    sums = torch.zeros(shape.numel(), dtype=values.dtype, device=values.device)
    return sums.index_add(0, slots.flatten(), values.flatten()).view(shape)


def answers_shape(batch: TokenBatch) -> torch.Size:
    """(rows, pairs, 2)."""
    assert batch.pair_ids is not None, "these rows hold no pairs of answers"
    return torch.Size((*batch.pair_ids.shape, 2))


def answer_slots(batch: TokenBatch) -> torch.Tensor:
    """The answer that each input belongs to, counted over the whole batch. `[rows, time]`, int64

    Padding belongs to the last document of its row, and filler to the first of its own.
    """
    num_rows, num_pairs, _ = answers_shape(batch)
    first = torch.arange(num_rows, device=batch.targets.device).unsqueeze(1) * (2 * num_pairs)
    documents = batch.document_ids
    if documents is None:  # filler alone: whatever has a pair tells its documents apart
        return first.expand(batch.targets.shape)
    return first + documents


class PreferenceObjective:
    """An objective whose units are pairs; a subclass says what the loss of each is."""

    name: str
    shapes: tuple[str, ...] = ("preferences",)
    normaliser: Normaliser = "pairs"
    cross_entropy: str = ""
    measures: tuple[str, ...]

    def pair_losses(self, model: torch.nn.Module, batch: TokenBatch) -> Losses:
        """Returns the loss of every pair. `[rows, pairs]`"""
        raise NotImplementedError

    def losses(self, model: torch.nn.Module, batch: ModelBatch) -> Losses:
        """Runs the model on a batch of preferences."""
        return self.pair_losses(model, cast(TokenBatch, batch))

    def position_values(self, model: torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
        """What the model says at every position, by which documents in a row are told apart.

        `[rows, time]`, fp32
        """
        return token_cross_entropy(model, batch)

    def metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """What is reported beside the loss: every measure as it is."""
        return {name: means[name] for name in self.measures}


def losses_of_pairs(
    values: torch.Tensor, measures: Sequence[torch.Tensor], batch: TokenBatch
) -> Losses:
    """Leaves out what is no pair.

    Args:
        values: Loss of every pair; any finite number where there is none. `[rows, pairs]`, fp32
        measures: What else is measured of each, in the order of the objective's `measures`.
        batch: The batch.
    """
    assert batch.pair_ids is not None
    is_pair = batch.pair_ids >= 0
    counted = torch.stack([value.detach().float() for value in measures])
    return Losses(
        torch.where(is_pair, values, 0.0), is_pair, torch.where(is_pair, counted, 0.0).sum((1, 2))
    )
