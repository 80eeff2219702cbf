"""Cross entropy per target token, shared by the objectives of language."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from phaseline.objectives.base import IGNORED_TARGET, TokenBatch


def token_cross_entropy(model: torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
    """Runs the model and returns the cross entropy of every target.

    Args:
        model: Returns logits [batch, sequence, vocabulary], itself or as `.logits`.
        batch: Input ids and targets.

    Returns:
        Negative log-likelihoods in nats, fp32, 0 where the target is ignored. [batch, sequence]
    """
    output: Any = _forward(model, batch.input_ids)
    logits: torch.Tensor = getattr(output, "logits", output)
    losses = cross_entropy(
        logits.float().flatten(0, 1),
        batch.targets.flatten(),
        ignore_index=IGNORED_TARGET,
        reduction="none",
    )
    return losses.view(batch.targets.shape)


def _forward(model: torch.nn.Module, input_ids: torch.Tensor) -> Any:
    bare = getattr(model, "module", model)
    if hasattr(bare, "generation_config"):
        return model(input_ids=input_ids, use_cache=False)
    return model(input_ids)
