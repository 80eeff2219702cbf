"""Predicting the next token of running text."""

from __future__ import annotations

import torch

from phaseline.objectives.base import TokenBatch, TokenObjective
from phaseline.objectives.token_loss import token_cross_entropy


class CausalLM(TokenObjective):
    """Every position of every sequence is a target."""

    name = "causal_lm"
    shapes: tuple[str, ...] = ("text",)

    def token_losses(self, model: torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
        """Returns the loss of every target. [batch, sequence]"""
        return token_cross_entropy(model, batch)
