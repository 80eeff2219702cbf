"""The Protocol of an objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch

IGNORED_TARGET = -100
"""A target with this value carries no loss."""

ReferenceKind = Literal["precomputed", "memory"]
"""How the log-probabilities of a reference are come by: by one pass of the policy before it is
trained, or from a frozen model beside it."""

Normaliser = Literal["tokens", "pairs", "samples"]
"""What a mean is taken over: targets with loss, pairs of answers, or samples."""


class ModelBatch(Protocol):
    """What every batch has: each objective knows more of those of its own shapes."""

    @property
    def rows(self) -> int:
        """Rows that are samples; the others fill the batch up."""

    @property
    def source_ids(self) -> torch.Tensor | None:
        """The source of each row, [batch], int64; None if there is one source."""


class SampleBatch(Protocol):
    """What an objective of samples with a label needs of a batch."""

    @property
    def inputs(self) -> torch.Tensor:
        """Images or features, [rows, ...], fp32; or tokens padded on the right, [rows, time]."""

    @property
    def labels(self) -> torch.Tensor:
        """The class of each row, [rows], int64; IGNORED_TARGET where a row is filler."""

    @property
    def lengths(self) -> torch.Tensor | None:
        """Tokens of each row without padding, [rows], int64; None of images and features."""


class TokenBatch(Protocol):
    """What a token objective needs of a batch."""

    @property
    def input_ids(self) -> torch.Tensor:
        """[batch, sequence], int64."""

    @property
    def targets(self) -> torch.Tensor:
        """[batch, sequence], int64; already shifted; IGNORED_TARGET carries no loss."""

    @property
    def position_ids(self) -> torch.Tensor | None:
        """Of each input in its document, [batch, sequence], int64; they begin again with each.

        None where no row holds more than one, and where documents may attend to each other.
        """

    @property
    def document_ids(self) -> torch.Tensor | None:
        """Which document of its row each input belongs to, from 0; None as `position_ids`."""

    @property
    def pair_ids(self) -> torch.Tensor | None:
        """Of preferences, a number of each pair of each row, -1 where a row has fewer.

        Pair p of a row is its documents 2 p, the chosen answer, and 2 p + 1, the rejected.
        `[batch, pairs]`, int64; None of other shapes.
        """

    @property
    def reference_logps(self) -> torch.Tensor | None:
        """Summed log-probabilities of both answers under the reference, in nats.

        `[batch, pairs, 2]`, fp32; None for an objective that asks for none.
        """


@dataclass(frozen=True)
class Losses:
    """What an objective makes of a batch.

    Attributes:
        values: Loss of every unit, fp32, 0 where there is none. `[rows, units]`
        is_unit: Which of these are units; None: those with a target, of a token objective.
            `[rows, units]`, bool
        measures: Sums over this batch's units, one for each of the objective's `measures`,
            detached; None if it has none. `[measures]`, fp32
    """

    values: torch.Tensor
    is_unit: torch.Tensor | None = None
    measures: torch.Tensor | None = None


def reference_of(objective: Objective) -> ReferenceKind | None:
    """The reference that an objective asks for, as its attribute `reference`; None: none."""
    found: ReferenceKind | None = getattr(objective, "reference", None)
    return found


class Objective(Protocol):
    """Turns a batch into losses. It keeps no state of training and calls no collective."""

    name: str
    shapes: tuple[str, ...]
    """The shapes of data that it trains on, as `text` or `pairs`."""
    normaliser: Normaliser
    """What its units are. The loop sums the losses and divides once by the units of the whole
    global batch, so that neither the layout of the ranks nor ragged rows weigh in."""
    measures: tuple[str, ...]
    """What it sums beside the loss; each is reported as its mean over the units."""
    cross_entropy: str
    """Where the units are tokens: which mean is their cross entropy, `loss` or a measure. A
    validation takes perplexity and bits per byte of it. Empty where they are not."""

    def losses(self, model: torch.nn.Module, batch: ModelBatch) -> Losses:
        """Runs the model on a batch of the shapes that it trains on."""

    def metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """What is reported beside the loss.

        Args:
            means: Of `loss` and of every measure, over all units of all ranks.
        """


class TokenObjective:
    """An objective whose units are tokens; a subclass says what the loss of each is."""

    name: str
    shapes: tuple[str, ...] = ("text",)
    normaliser: Normaliser = "tokens"
    measures: tuple[str, ...] = ()
    cross_entropy: str = "loss"

    def token_losses(self, model: torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
        """Returns the loss of every target, fp32, 0 where there is none. `[batch, sequence]`"""
        raise NotImplementedError

    def losses(self, model: torch.nn.Module, batch: ModelBatch) -> Losses:
        """Runs the model on a batch of tokens."""
        return Losses(self.token_losses(model, cast(TokenBatch, batch)))

    def metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """What is reported beside the loss: every measure as it is."""
        return {name: means[name] for name in self.measures}
