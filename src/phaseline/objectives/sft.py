"""Supervised fine-tuning: predicting the answer, given the prompt."""

from __future__ import annotations

import torch

from phaseline.objectives.base import TokenBatch, TokenObjective
from phaseline.objectives.token_loss import token_cross_entropy


class SupervisedFineTuning(TokenObjective):
    """Only the answer and the end after it are targets; the data mask the prompt."""

    name = "sft"
    shapes: tuple[str, ...] = ("pairs", "chats")

    def token_losses(self, model: torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
        """Returns the loss of every answer token. [batch, sequence]"""
        return token_cross_entropy(model, batch)
