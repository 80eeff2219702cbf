"""Parameters that a backward pass does not reach, where ZeRO would mix up the ranks.

ZeRO adds up gradients in the order in which they arrive. If one rank's batch uses expert A and
another's expert B, the two are summed as if they were one, and nothing says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from phaseline.errors import EngineError


class GradientWatch:
    """Sees to it that every backward pass of a rank brings a gradient for every parameter."""

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], *, complete: bool) -> None:
        """Takes the parameters that must get a gradient.

        Args:
            parameters: By name.
            complete: Whether a missing gradient is made zero; else it is an error.
        """
        self._parameters = dict(parameters)
        self._complete = complete
        self._arrived: set[torch.Tensor] = set()
        self._hooks: list[Any] = []
        if not complete:
            self._hooks = [
                parameter.register_post_accumulate_grad_hook(self._arrived.add)  # type: ignore[no-untyped-call]  # torch does not type it
                for parameter in self._parameters.values()
            ]

    def before_backward(self, loss: torch.Tensor) -> torch.Tensor:
        """Returns the loss to go back from."""
        if not self._complete:
            return loss
        found: torch.Tensor = _ReachAll.apply(loss, *self._parameters.values())  # type: ignore[no-untyped-call]  # torch does not type it
        return found

    def after_backward(self) -> None:
        """Forgets what arrived.

        Raises:
            EngineError: Some parameter got no gradient, so the ranks may have mixed theirs up.
        """
        if self._complete:
            return
        missing = len(self._arrived) != len(self._parameters)
        if missing:
            names = [n for n, p in self._parameters.items() if p not in self._arrived]
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise EngineError(
                f"{len(names)} trained parameter(s) got no gradient from this rank's batch: "
                f"{shown}. ZeRO adds gradients up in the order of their arrival, so ranks that use "
                "different parameters would mix theirs up. If they are never used, freeze them "
                "(trainable.freeze); if only some batches use them, set "
                "engine.unused_parameters to true, or engine.kind to plain."
            )
        self._arrived.clear()

    def close(self) -> None:
        """Takes the hooks off the parameters."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._parameters.clear()
        self._arrived.clear()


class _ReachAll(torch.autograd.Function):
    """The loss as it is; in the backward pass, zero for every parameter besides."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.parameters = [(p.shape, p.dtype, p.device) for p in parameters]
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        # Expanded: a zero of each shape takes no memory until it is added.
        zeros = (
            torch.zeros((), dtype=dtype, device=device).expand(shape)
            for shape, dtype, device in ctx.parameters
        )
        return (grad, *zeros)
