"""A model of one parameter: a training step then costs what the loop costs."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

VOCAB_SIZE_OF_BYTES = 257
"""Rows of plain bytes hold no other ids than these: 256 bytes and the end of a document."""


class OneParameter(torch.nn.Module):
    """Logits are a fixed table, one row per token, times the one weight."""

    table: torch.Tensor

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("table", torch.randn(vocab_size, vocab_size, generator=generator))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.table[input_ids] * self.weight


def build(vocab_size: int) -> torch.nn.Module:
    """What the configuration names as `one_parameter:build`."""
    return OneParameter(vocab_size)


def mean_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy over all targets; every loop but Phaseline's own calls this."""
    return cross_entropy(logits.flatten(0, 1), targets.flatten())


def fused_adamw(model: torch.nn.Module, lr: float) -> torch.optim.Optimizer:
    """The optimizer of every loop."""
    return torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
