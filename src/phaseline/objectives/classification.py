"""Classes of images, of rows of features, or of texts."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, cast

import torch
from torch.nn.functional import cross_entropy

from phaseline.objectives.base import (
    IGNORED_TARGET,
    Losses,
    ModelBatch,
    Normaliser,
    SampleBatch,
)

_NUM_BINS = 15
_GAPS = tuple(f"gap_{idx}" for idx in range(_NUM_BINS))


class Classification:
    """Cross entropy of the logits of classes; each sample counts as one."""

    name = "classification"
    shapes: tuple[str, ...] = ("labelled",)
    normaliser: Normaliser = "samples"
    measures: tuple[str, ...] = ("correct", *_GAPS)
    cross_entropy: str = ""

    def __init__(
        self, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None
    ) -> None:
        """Takes what changes the loss.

        Args:
            label_smoothing: So much of each target is spread evenly over all classes.
            class_weights: The loss of a sample is multiplied by the weight of its class; the mean
                is still taken over the samples, so that no batch weighs more than another.
        """
        self._label_smoothing = label_smoothing
        self._weights = None if class_weights is None else torch.tensor(class_weights)

    @property
    def num_weights(self) -> int | None:
        """Classes that have a weight; None if none has."""
        return None if self._weights is None else len(self._weights)

    def losses(self, model: torch.nn.Module, batch: ModelBatch) -> Losses:
        """Runs the model on a batch of samples with a label."""
        samples = cast(SampleBatch, batch)
        logits = class_logits(model, samples).float()
        if self._weights is not None:
            self._weights = self._weights.to(logits.device)
        values = cross_entropy(
            logits,
            samples.labels,
            weight=self._weights,
            ignore_index=IGNORED_TARGET,
            reduction="none",
            label_smoothing=self._label_smoothing,
        )
        is_unit = samples.labels != IGNORED_TARGET
        # DeepSpeed's wrapper stays in training mode when what it wraps does not.
        is_training = getattr(model, "module", model).training
        measures = _measure(logits.detach(), samples.labels, is_unit, calibrates=not is_training)
        return Losses(values.unsqueeze(1), is_unit.unsqueeze(1), measures)

    def metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """Accuracy, and of held-out data the expected calibration error.

        Args:
            means: Of `loss` and of every measure, over all samples of all ranks.
        """
        found = {"accuracy": means["correct"]}
        error = sum(abs(means[name]) for name in _GAPS)
        if not math.isnan(error):
            found["calibration_error"] = error
        return found


def class_logits(model: torch.nn.Module, batch: SampleBatch) -> torch.Tensor:
    """Runs the model on samples.

    Args:
        model: Returns logits [rows, classes], itself or as `.logits`. One of transformers is given
            the inputs as its `main_input_name`, any other as its first argument. Of texts it
            is also given `attention_mask` ([rows, time], int64, 1 where there is a token) and
            `lengths` ([rows], int64), those of them that its forward has as parameters.
        batch: The samples.
    """
    bare: Any = getattr(model, "module", model)
    parameters = _parameters(type(bare).forward)
    known: dict[str, Any] = {"use_cache": False} if "use_cache" in parameters else {}
    inputs = batch.inputs
    if batch.lengths is None:
        # An engine that keeps its weights in another type takes numbers in no other.
        inputs = inputs.to(next(bare.parameters()).dtype)
    else:
        if "attention_mask" in parameters:
            places = torch.arange(inputs.shape[1], device=inputs.device)
            known["attention_mask"] = (places < batch.lengths.unsqueeze(1)).long()
        if "lengths" in parameters:
            known["lengths"] = batch.lengths
    name = getattr(bare, "main_input_name", None)
    output: Any = model(inputs, **known) if name is None else model(**{name: inputs}, **known)
    logits: torch.Tensor = getattr(output, "logits", output)
    return logits


def _measure(
    logits: torch.Tensor, labels: torch.Tensor, is_unit: torch.Tensor, *, calibrates: bool
) -> torch.Tensor:
    """How many are right; and in each bin of confidence, by how much that is more than was said.

    The expected calibration error is the sum over bins of |right - confidence|, over all samples;
    so these differences are all that has to be summed over batches and ranks.

    **Source:** Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 3.

    Returns:
        [1 + bins], fp64; the bins are NaN in training, where nobody asks for them.
    """
    confidence, predicted = logits.softmax(dim=1, dtype=torch.float32).max(dim=1)
    correct = ((predicted == labels) & is_unit).double()
    if not calibrates:
        gaps = torch.full((_NUM_BINS,), math.nan, dtype=torch.float64, device=logits.device)
        return torch.cat([correct.sum().view(1), gaps])
    # A bin holds its upper edge. By a sum over a table, whose order no kernel changes.
    bins = (confidence * _NUM_BINS).ceil().long().clamp(1, _NUM_BINS) - 1
    table = torch.nn.functional.one_hot(bins, _NUM_BINS).double()
    gaps = (table * ((correct - confidence.double()) * is_unit).unsqueeze(1)).sum(dim=0)
    return torch.cat([correct.sum().view(1), gaps])


@cache
def _parameters(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)
