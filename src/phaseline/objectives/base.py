"""The Protocol of an objective."""

from __future__ import annotations

from typing import Protocol

import torch

IGNORED_TARGET = -100
"""A target with this value carries no loss."""


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


class Objective(Protocol):
    """Turns a batch into losses. It keeps no state and calls no collective."""

    name: str
    shape: str
    """The shape of data that it trains on: `text` or `pairs`."""

    def token_losses(self, model: torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
        """Returns the loss of every target, fp32, 0 where there is none. [batch, sequence]

        The loop sums it and divides once by the number of targets of the whole global batch,
        so that neither the layout of the ranks nor ragged rows weigh in.
        """
