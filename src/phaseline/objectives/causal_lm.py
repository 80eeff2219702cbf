"""Predicting the next token of running text."""

from __future__ import annotations

import torch

from phaseline.objectives.base import TokenBatch
from phaseline.objectives.token_loss import token_cross_entropy


class CausalLM:
    """Every position of every sequence is a target."""

    name = "causal_lm"
    shape = "text"

    def token_losses(self, model: torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
        """Returns the loss of every target. [batch, sequence]"""
        return token_cross_entropy(model, batch)
