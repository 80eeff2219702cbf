"""A reward for answers, learnt from which of two was preferred."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from phaseline.objectives.base import IGNORED_TARGET, Losses, TokenBatch
from phaseline.objectives.preferences import (
    PreferenceObjective,
    answer_slots,
    answers_shape,
    losses_of_pairs,
)
from phaseline.objectives.token_loss import run_model


class RewardModel(PreferenceObjective):
    """Minus the log of the probability that the chosen answer is preferred.

    -log sigmoid(r(chosen) - r(rejected)), with r what the model says at the last token of an
    answer before the one that ends it.

    **Source:** Bradley and Terry (1952); Ouyang et al., arXiv 2203.02155, equation 1.
    """

    name = "reward_model"
    measures: tuple[str, ...] = ("accuracy", "margin", "reward_chosen", "reward_rejected")

    def pair_losses(self, model: torch.nn.Module, batch: TokenBatch) -> Losses:
        """Runs a model that has a reward for every position."""
        ends = last_inputs(batch)
        of_answers = self.position_values(model, batch).gather(1, ends.flatten(1))
        rewards = of_answers.view(ends.shape)
        margins = rewards[..., 0] - rewards[..., 1]
        measures = (margins > 0, margins, *rewards.unbind(-1))
        return losses_of_pairs(-logsigmoid(margins), measures, batch)

    def position_values(self, model: torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
        """The reward at every position. `[rows, time]`, fp32"""
        rewards = run_model(model, batch).float()
        assert rewards.shape == batch.targets.shape, "the model must have one reward a position"
        return rewards


def last_inputs(batch: TokenBatch) -> torch.Tensor:
    """The place in its row of the last input of each answer whose target is learnt.

    Returns:
        `[rows, pairs, 2]`, int64; 0 where there is no pair.
    """
    shape, slots = answers_shape(batch), answer_slots(batch)
    times = torch.arange(batch.targets.shape[1], device=batch.targets.device)
    places = torch.where(batch.targets != IGNORED_TARGET, times, 0)
    ends = torch.zeros(shape.numel(), dtype=torch.int64, device=places.device)
    return ends.scatter_reduce(0, slots.flatten(), places.flatten(), "amax").view(shape)
