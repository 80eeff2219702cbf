"""What engines share that hold whole gradients on every rank."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def fill_missing(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Gives a zero gradient to every parameter that got none.

    torch's optimizers would leave such a parameter out: no decay, and a step count of its own.
    ZeRO's flat partitions cannot, so here every engine counts a missing gradient as zero.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def clip(parameters: Sequence[torch.nn.Parameter], clip_norm: float | None) -> float:
    """Scales gradients to at most a norm, unless theirs is not finite.

    Args:
        parameters: All have a gradient, already averaged over the ranks.
        clip_norm: Largest norm; None: nothing is scaled.

    Returns:
        The 2-norm of the whole gradient before it was scaled.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    total = torch.nn.utils.get_total_norm(gradients)
    norm = float(total)
    if clip_norm is not None and norm > clip_norm and math.isfinite(norm):
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, total)
    return norm


def clear(parameters: Sequence[torch.nn.Parameter]) -> None:
    """What zero_grad() does, without a profiler range and a walk over every group."""
    for parameter in parameters:
        parameter.grad = None
