"""Logits and the cross entropy of every target, shared by the objectives of language."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, Protocol

import torch
from torch.nn.functional import cross_entropy

from phaseline.objectives.base import IGNORED_TARGET, TokenBatch


class LossesOf(Protocol):
    """What a model that takes losses without logits has as its attribute `losses_of`."""

    def __call__(self, targets: torch.Tensor, /) -> AbstractContextManager[None]:
        """While it lasts, a forward has the losses of the targets where its logits would be.

        They are as `token_cross_entropy` returns them. [batch, sequence]
        """


def token_cross_entropy(model: torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
    """Runs the model and returns the cross entropy of every target.

    Args:
        model: Returns logits [batch, sequence, vocabulary], itself or as `.logits`; or what it
            wraps has `losses_of`. It is also given the batch's `position_ids` and `document_ids`,
            those of them that its forward has as parameters.
        batch: Input ids, targets, and where documents begin.

    Returns:
        Negative log-likelihoods in nats, fp32, 0 where the target is ignored. [batch, sequence]
    """
    losses_of: LossesOf | None = getattr(_bare(model), "losses_of", None)
    if losses_of is not None:
        with losses_of(batch.targets):
            return run_model(model, batch)
    logits = run_model(model, batch)
    losses = cross_entropy(
        logits.float().flatten(0, 1),
        batch.targets.flatten(),
        ignore_index=IGNORED_TARGET,
        reduction="none",
    )
    return losses.view(batch.targets.shape)


def run_model(model: torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
    """What a model says of a batch, itself or as `.logits`.

    Args:
        model: As `token_cross_entropy` takes it.
        batch: Input ids, and where documents begin.

    Returns:
        As the model returns it; of a language model [batch, sequence, vocabulary].
    """
    bare = _bare(model)
    arguments = {name: getattr(batch, name) for name in _taken(type(bare).forward)}
    if hasattr(bare, "generation_config"):
        output: Any = model(input_ids=batch.input_ids, use_cache=False, **arguments)
    else:
        output = model(batch.input_ids, **arguments)
    logits: torch.Tensor = getattr(output, "logits", output)
    return logits


@cache
def _taken(forward: Callable[..., Any]) -> tuple[str, ...]:
    """What a model's forward wants to know of the documents in a row.

    One that asks for nothing sees a row as one document; the trial at the start tells whether
    that matters.
    """
    parameters = inspect.signature(forward).parameters
    return tuple(name for name in ("position_ids", "document_ids") if name in parameters)


def _bare(model: torch.nn.Module) -> Any:
    return getattr(model, "module", model)
