"""Distillation: predicting what a frozen teacher predicts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

import torch

from phaseline.objectives.base import (
    IGNORED_TARGET,
    Losses,
    ModelBatch,
    TokenBatch,
    TokenObjective,
)
from phaseline.objectives.token_loss import run_model

Direction = Literal["forward", "reverse"]

_MOST_ELEMENTS = 1 << 22
"""Logits that are worked on at once: 16 MiB for each fp32 copy of them.

Source: measured with torch 2.13 on a CPU, 1024 rows of 16384 logits: forward and backward in
0.36 s, with 64 MiB in 0.89, and all at once by the plain formula in 0.83.
"""


class Distillation(TokenObjective):
    """Mixes the cross entropy of every target with the divergence from a teacher's prediction.

    loss = (1 - weight) * cross entropy + weight * temperature^2 * KL

    The KL divergence is between both predictions at the temperature; its square keeps the
    gradient's size whatever the temperature is.
    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2; for
    the reverse direction Gu et al., "MiniLLM", 2023.
    """

    name = "distillation"
    shapes: tuple[str, ...] = ("text", "pairs", "chats")
    measures: tuple[str, ...] = ("cross_entropy", "kl")
    cross_entropy: str = "cross_entropy"

    def __init__(
        self,
        teacher: str,
        weight: float = 1.0,
        temperature: float = 1.0,
        direction: Direction = "forward",
    ) -> None:
        """Takes the settings; the teacher itself is given later, by `teach_with`.

        Args:
            teacher: Where its weights are, in the words of `inherit.weights`.
            weight: Share of the divergence in the loss, above 0 and at most 1.
            temperature: Logits are divided by it in the divergence, above 0.
            direction: forward, KL(teacher || student), or reverse, KL(student || teacher).
        """
        self.teacher = teacher
        self.weight = float(weight)
        self.temperature = float(temperature)
        self.direction = direction
        self._model: torch.nn.Module | None = None

    def teach_with(self, model: torch.nn.Module) -> None:
        """Takes the teacher: frozen, and on the device where batches lie."""
        self._model = model

    @property
    def model(self) -> torch.nn.Module:
        """The teacher."""
        assert self._model is not None
        return self._model

    def losses(self, model: torch.nn.Module, batch: ModelBatch) -> Losses:
        """Runs the teacher and the model on a batch of tokens."""
        tokens = cast(TokenBatch, batch)
        with torch.no_grad():
            taught = run_model(self.model, tokens)
        logits = run_model(model, tokens)
        values, entropies, divergences = divergence_losses(
            logits,
            taught,
            tokens.targets,
            weight=self.weight,
            temperature=self.temperature,
            direction=self.direction,
        )
        return Losses(values, measures=torch.stack([entropies.sum(), divergences.sum()]))


def divergence_losses(
    logits: torch.Tensor,
    taught: torch.Tensor,
    targets: torch.Tensor,
    *,
    weight: float,
    temperature: float,
    direction: Direction,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss of every target, and what it is made of.

    Beside both models' logits and the gradient of the student's, in their own dtype, no more
    than some rows exist at a time, in fp32.

    Args:
        logits: Of the student. [batch, sequence, vocabulary]
        taught: Of the teacher, without gradient. [batch, sequence, vocabulary]
        targets: [batch, sequence], int64; IGNORED_TARGET carries no loss.
        weight: Share of the divergence.
        temperature: Of both predictions in the divergence.
        direction: Which of them the expectation is taken over.

    Returns:
        The losses, and detached the cross entropy and the divergence (without the square of the
        temperature), in nats, fp32, 0 where the target is ignored. Each [batch, sequence].
    """
    found = _ChunkedDivergence.apply(  # type: ignore[no-untyped-call]  # torch's
        logits.flatten(0, -2),
        taught.flatten(0, -2),
        targets.flatten(),
        weight,
        temperature,
        direction == "reverse",
    )
    losses, entropies, divergences = (part.view(targets.shape) for part in found)
    return losses, entropies, divergences


class _ChunkedDivergence(torch.autograd.Function):
    """Softmaxes are taken again in the backward pass, so that none is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        taught: torch.Tensor,
        targets: torch.Tensor,
        weight: float,
        temperature: float,
        is_reverse: bool,
    ) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(logits, taught, targets)
        ctx.settings = weight, temperature, is_reverse
        # Made before the chunks: small tensors between large ones keep their memory from the heap.
        entropies, divergences = (torch.zeros(len(targets), device=logits.device) for _ in range(2))
        for student, teacher, target, entropy, divergence in _chunks(
            logits, taught, targets, entropies, divergences
        ):
            counted = target != IGNORED_TARGET
            entropy += torch.nn.functional.cross_entropy(
                student.float(), target, ignore_index=IGNORED_TARGET, reduction="none"
            )
            log_q, log_p = _at(student, temperature), _at(teacher, temperature)
            if is_reverse:
                log_q, log_p = log_p, log_q
            divergence += torch.where(counted, (log_p.exp() * (log_p - log_q)).sum(dim=1), 0.0)
        losses = (1 - weight) * entropies + weight * temperature**2 * divergences
        ctx.mark_non_differentiable(entropies, divergences)
        return losses, entropies, divergences

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        logits, taught, targets = ctx.saved_tensors
        weight, temperature, is_reverse = ctx.settings
        found = torch.empty_like(logits)
        for student, teacher, target, gradient, out in _chunks(
            logits, taught, targets, gradients[0], found
        ):
            log_q, log_p = _at(student, temperature), _at(teacher, temperature)
            q = log_q.exp()
            if is_reverse:
                gap = log_q - log_p
                of_logits = q * (gap - (q * gap).sum(dim=1, keepdim=True))
            else:
                of_logits = q - log_p.exp()
            of_logits *= weight * temperature
            if weight < 1:
                of_logits += (1 - weight) * _entropy_gradient(student, target)
            of_logits *= torch.where(target != IGNORED_TARGET, gradient, 0.0).unsqueeze(1)
            out.copy_(of_logits)
        return found, None, None, None, None, None


def _at(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probabilities at a temperature, fp32."""
    return torch.log_softmax(logits.float() / temperature, dim=1)


def _entropy_gradient(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Softmax minus the target; of an ignored one, anything."""
    found = torch.softmax(logits.float(), dim=1)
    found[torch.arange(len(targets), device=targets.device), targets.clamp(min=0)] -= 1.0
    return found


def _chunks(logits: torch.Tensor, *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Views of some rows of each tensor at a time."""
    num_rows = max(1, _MOST_ELEMENTS // logits.shape[1])
    return zip(*(torch.split(tensor, num_rows) for tensor in (logits, *tensors)), strict=True)
