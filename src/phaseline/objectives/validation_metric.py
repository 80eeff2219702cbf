"""Metrics of the user's own: what they see of a validation, and what they make of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch

from phaseline.config.plugins import load_attribute
from phaseline.errors import ConfigurationError, Fault
from phaseline.objectives.base import Losses, ModelBatch, SampleBatch, TokenBatch

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PARTS = ("name", "measures", "needs_logits", "sums", "metrics")


@dataclass(frozen=True)
class Seen:
    """One batch of held-out examples, on the rank's device.

    Attributes:
        batch: Inputs and targets, or labels. Rows that only fill it up have none.
        losses: What the objective made of it.
        is_unit: What counts: targets with loss, pairs or samples. `[rows, units]`, bool
        logits: What the model said in its last forward, if the metric `needs_logits`; else None.
            `[rows, sequence, vocabulary]` or, of samples with a label, `[rows, classes]`, in the
            dtype of the model
    """

    batch: ModelBatch
    losses: Losses
    is_unit: torch.Tensor
    logits: torch.Tensor | None

    @property
    def tokens(self) -> TokenBatch:
        """The batch, of a phase that trains on tokens."""
        return cast(TokenBatch, self.batch)

    @property
    def samples(self) -> SampleBatch:
        """The batch, of a phase that trains on samples with a label."""
        return cast(SampleBatch, self.batch)


class ValidationMetric(Protocol):
    """Sums over held-out examples, and what is reported of them.

    It is built without arguments for each phase, and called in validations alone. It keeps no
    state and calls no collective: its sums are added over batches and ranks with the losses, so
    that they are exact whatever the sizes, as long as it counts what `is_unit` says.
    """

    @property
    def name(self) -> str:
        """Unique in the phase: lower-case letters, digits and underscores."""

    @property
    def measures(self) -> tuple[str, ...]:
        """What it sums."""

    @property
    def needs_logits(self) -> bool:
        """Whether it looks at logits. They are kept for it; nothing is computed twice."""

    def sums(self, seen: Seen) -> torch.Tensor:
        """Returns the sum of each measure over a batch, on its device. `[measures]`"""

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """What is reported, by names as `token_accuracy`.

        Args:
            sums: Of each measure, over all examples of all ranks.
        """


class LogitsTap(torch.nn.Module):
    """Passes a forward on, and keeps the logits that it had.

    Attributes:
        module: The bare model.
        logits: Of the last forward; None before it.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        """Takes a model as an objective gets it."""
        super().__init__()
        self.module = getattr(model, "module", model)
        self.logits: torch.Tensor | None = None
        self._model = model

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """What the model says."""
        output = self._model(*arguments, **named)
        self.logits = getattr(output, "logits", output)
        return output


def build_metrics(
    names: Sequence[str], *, path: str, has_logits: bool
) -> tuple[ValidationMetric, ...]:
    """Imports and builds metrics.

    Args:
        names: Each `module:attribute`.
        path: Where they stand in the configuration, for messages.
        has_logits: Whether the phase computes logits.

    Raises:
        ConfigurationError: One cannot be imported, is no metric, has a name that another one
            has, or needs logits that do not exist.
    """
    found: dict[str, ValidationMetric] = {}
    for idx, name in enumerate(names):
        metric = load_attribute(name, path=f"{path}[{idx}]")()
        problem, fix = _problem_of(metric, found, has_logits=has_logits)
        if problem:
            fault = Fault(f"{path}[{idx}]", "", f"is {name!r}, {problem}", fix)
            raise ConfigurationError([fault])
        found[metric.name] = metric
    return tuple(found.values())


def _problem_of(
    metric: Any, others: Mapping[str, ValidationMetric], *, has_logits: bool
) -> tuple[str, str]:
    """What is wrong with a metric, and how to mend it; empty if nothing is."""
    missing = [part for part in _PARTS if not hasattr(metric, part)]
    if missing:
        return (
            f"which has no {', '.join(missing)}",
            "Write it as phaseline.objectives.validation_metric.ValidationMetric says.",
        )
    if not isinstance(metric.name, str) or _NAME.fullmatch(metric.name) is None:
        return (
            f"whose name is {metric.name!r}; it must be lower-case letters, digits and underscores",
            "Give it another name, as token_accuracy.",
        )
    if metric.name in others:
        return f"whose name {metric.name} another one has", "Give one of them another name."
    if metric.needs_logits and not has_logits:
        return (
            "which needs logits, and engine.linear_cross_entropy leaves none",
            "Set engine.linear_cross_entropy to false, or remove the metric.",
        )
    return "", ""
