"""The loss straight from hidden states and the output layer, without ever holding all logits.

It is computed inside the output layer's own forward, so that whatever an engine hangs on that
layer, as ZeRO-3's gathering of its weight, sees the forward and backward that it expects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear

from phaseline.errors import ConfigurationError, Fault
from phaseline.models.compilation import uncompiled

IGNORED_TARGET = -100
"""A target with this value carries no loss."""

_FEWEST_ROWS, _MOST_ROWS = 128, 1024


class LossHead(torch.nn.Linear):
    """An output layer that answers with losses while it has targets, and else with logits."""

    targets: torch.Tensor | None = None
    _cross_entropy: Callable[..., torch.Tensor] | None = None

    def keep_uncompiled(self) -> None:
        """Keeps a compiler, which is about to take the model, out of the loss.

        Traced, the logits of the backward pass would be recognised as those of the forward
        pass, and all of them kept. Source: measured with torch 2.13.
        """
        disable: Any = torch.compiler.disable  # torch does not type it
        self._cross_entropy = disable(linear_cross_entropy)

    @contextmanager
    def losses_of(self, targets: torch.Tensor) -> Iterator[None]:
        """While it lasts, a forward of the model has losses where its logits would be.

        Args:
            targets: [batch, sequence], int64; IGNORED_TARGET carries no loss.
        """
        self.targets = targets
        try:
            yield
        finally:
            self.targets = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:  # noqa: D102 - torch's
        if self.targets is None:
            return super().forward(hidden)
        cross_entropy_of = self._cross_entropy or linear_cross_entropy
        return cross_entropy_of(hidden, self.weight, self.bias, self.targets)


def install_linear_loss(module: torch.nn.Module, *, path: str) -> None:
    """Lets a model of transformers answer with losses, at `module.losses_of(targets)`.

    No parameter changes its name, and generation sees logits as before. Whether the model
    passes on what its output layer says is told by `require_same_loss`.

    Args:
        module: The bare module, before an engine or a compiler has it.
        path: The setting's place in the configuration, for messages.

    Raises:
        ConfigurationError: The output layer is not known, or not a plain linear one.
    """
    get_head: Any = getattr(module, "get_output_embeddings", None)
    head = None if get_head is None else get_head()
    if type(head) is not torch.nn.Linear:
        found = "is not known" if head is None else f"is a {type(head).__name__}"
        raise _fault(
            path,
            f"is true, but the output layer of {type(module).__name__} {found}; it must be a "
            "torch.nn.Linear",
        )
    head.__class__ = LossHead
    assert isinstance(head, LossHead)
    # Not the head itself: as an attribute of the module it would name its parameters twice.
    vars(module)["losses_of"] = head.losses_of


def require_same_loss(model: torch.nn.Module, *, path: str) -> None:
    """Compares the losses of a small batch with those from logits. **Ranks:** all.

    A model that changes its logits after the output layer, by capping or scaling them, would
    train on another loss than its own without a word.

    Args:
        model: As a forward goes through it, after `install_linear_loss`.
        path: The setting's place in the configuration, for messages.

    Raises:
        ConfigurationError: The model does something to what its output layer says.
    """
    bare: Any = getattr(model, "module", model)
    head: LossHead = bare.get_output_embeddings()
    ids = torch.arange(2 * 8, device=head.weight.device).remainder(head.out_features).view(2, 8)
    was_training = model.training
    model.eval()
    try:
        # Compiled, the model would not see the hook that is put in its way.
        with torch.no_grad(), uncompiled():
            logits = model(input_ids=ids, use_cache=False).logits
            try:
                unchanged = _passes_on(model, head, ids) and _equals(model, head, ids, logits)
            except (IndexError, RuntimeError, TypeError, ValueError):
                unchanged = False  # it works on logits, and has met something of another shape
    finally:
        model.train(was_training)
    if not unchanged:
        raise _fault(
            path,
            f"is true, but {type(bare).__name__} does something to its logits after the output "
            "layer, so its loss cannot be taken there",
        )


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
) -> torch.Tensor:
    """Cross entropy of every target, from the input of the layer that would make the logits.

    Logits exist for some rows at a time, in the forward and again in the backward pass.

    `torch.nn.functional.linear_cross_entropy` gives losses, and takes their gradient, in the
    dtype of the weight: in bf16, a loss of 4 in steps of 0.03 and a scale that is off by up to
    0.2 %. Here both are fp32, as they are from logits.
    Source: measured with torch 2.13.

    Args:
        hidden: [..., features].
        weight: [vocabulary, features].
        bias: [vocabulary].
        targets: [...], int64; IGNORED_TARGET carries no loss.

    Returns:
        Negative log-likelihoods in nats, fp32, 0 where the target is ignored. [...]
    """
    device_type = hidden.device.type
    if torch.is_autocast_enabled(device_type):
        # What autocast does to the inputs of a linear layer; it does not look in here.
        dtype = torch.get_autocast_dtype(device_type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    losses: torch.Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]  # torch's
        hidden.flatten(0, -2), weight, bias, targets.flatten()
    )
    return losses.view(targets.shape)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Rows [rows, features] and targets [rows] to losses [rows]."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(hidden, weight, bias, targets)
        # One tensor from the start: small ones made between large ones would pin memory.
        losses = torch.empty_like(targets, dtype=torch.float32)
        for rows, wanted, out in _chunks(weight, hidden, targets, losses):
            out.copy_(_losses(linear(rows, weight, bias), wanted))
        return losses

    @staticmethod
    def backward(ctx: Any, loss_gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias, _ = ctx.needs_input_grad
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros_like(weight) if needs_weight else None
        bias_gradient = torch.zeros_like(bias) if needs_bias else None
        for rows, wanted, outer, out in _chunks(
            weight, hidden, targets, loss_gradient, hidden_gradient
        ):
            gradient = _logit_gradient(linear(rows, weight, bias), wanted, outer)
            if needs_hidden:
                torch.mm(gradient, weight, out=out)
            if weight_gradient is not None:
                weight_gradient.addmm_(gradient.T, rows)
            if bias_gradient is not None:
                bias_gradient += gradient.sum(0)
        return hidden_gradient if needs_hidden else None, weight_gradient, bias_gradient, None


def _losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits.float(), targets, ignore_index=IGNORED_TARGET, reduction="none")


def _logit_gradient(
    logits: torch.Tensor, targets: torch.Tensor, loss_gradient: torch.Tensor
) -> torch.Tensor:
    """Softmax minus the target, times the gradient of each loss, in the dtype of the logits."""
    gradient = torch.softmax(logits.float(), dim=1)
    counted = targets != IGNORED_TARGET
    row_idx = torch.arange(len(targets), device=targets.device)
    gradient[row_idx, torch.where(counted, targets, 0)] -= 1.0
    gradient *= torch.where(counted, loss_gradient, 0.0).unsqueeze(1)
    return gradient.to(logits.dtype)


def _chunks(weight: torch.Tensor, *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Views of some rows of each tensor at a time.

    As many as make no more logits than the weight has elements, which are there anyway.
    """
    num_rows = min(_MOST_ROWS, max(_FEWEST_ROWS, weight.shape[1]))
    return zip(*(torch.split(tensor, num_rows) for tensor in tensors), strict=True)


def _passes_on(model: torch.nn.Module, head: LossHead, ids: torch.Tensor) -> bool:
    """Whether the caller gets what the output layer said, here numbers that no cap would keep."""
    said = torch.linspace(-1e3, 1e3, ids.numel(), device=ids.device).view(ids.shape)
    calls = 0

    def say(*_: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return said

    handle = head.register_forward_hook(say)
    try:
        heard = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    return calls == 1 and torch.equal(heard, said)


def _equals(
    model: torch.nn.Module, head: LossHead, ids: torch.Tensor, logits: torch.Tensor
) -> bool:
    """Whether the losses are those of the logits, with the ids themselves as targets."""
    expected = _losses(logits.flatten(0, -2), ids.flatten()).view(ids.shape)
    with head.losses_of(ids):
        losses = model(input_ids=ids, use_cache=False).logits
    tolerance = 1e-5 if logits.dtype == torch.float32 else 1e-2
    return torch.allclose(losses, expected, rtol=tolerance, atol=tolerance)


def _fault(path: str, problem: str) -> ConfigurationError:
    return ConfigurationError([Fault(path, "", problem, "Set it to false.")])
