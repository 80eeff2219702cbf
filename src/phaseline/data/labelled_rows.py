"""Rows of samples with a label: each has one of its own. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from phaseline.data.rows import Ids, Unit, spans

if TYPE_CHECKING:
    from phaseline.data.store import SplitData

_LARGEST_PIXEL = 255.0


class LabelledRowArrays(NamedTuple):
    """Rows as they go through a model.

    Attributes:
        inputs: Images or features, `[rows, ...]`, fp32; or tokens, `[rows, time]`, int64.
        labels: `[rows]`, int64.
        lengths: Tokens of each row without padding, `[rows]`, int64; None of numbers.
    """

    inputs: NDArray[Any]
    labels: Ids
    lengths: Ids | None


class NumberRows:
    """Images, or rows of features."""

    num_dropped = 0
    num_truncated = 0
    num_pairs = 0

    def __init__(self, data: SplitData, *, scales_images: bool = True) -> None:
        """Takes one side of a store.

        Args:
            data: The side.
            scales_images: Whether pixels, whole numbers from 0 to 255, become 0 to 1.
        """
        assert data.numbers is not None
        assert data.labels is not None
        self.num_rows = self.num_useful = len(data.numbers)
        self.item_shape: tuple[int, ...] = data.numbers.shape[1:]
        self._numbers, self._labels, self._checks = data.numbers, data.labels, data.checks
        self._is_scaled = scales_images and data.numbers.dtype == np.uint8

    def max_length(self, ids: Ids) -> int:  # noqa: ARG002 - all are alike
        """1: a row is one thing."""
        return 1

    def num_units(self, ids: Ids, unit: Unit) -> Ids:
        """Each row is one sample; there is no other unit. `[rows]`"""
        return _ones(ids, unit)

    def take(self, ids: Ids, time: int, pad_id: int) -> LabelledRowArrays:  # noqa: ARG002 - no text
        """These rows; fresh arrays."""
        self._checks.require(ids, ids + 1)
        inputs = self._numbers.take(ids, axis=0).astype(np.float32)
        if self._is_scaled:
            inputs /= np.float32(_LARGEST_PIXEL)
        return LabelledRowArrays(inputs, self._labels.take(ids), None)


class LabelledTextRows:
    """Texts, each cut at its end to what fits a row."""

    num_dropped = 0
    num_pairs = 0

    def __init__(self, data: SplitData, sequence_length: int) -> None:
        """Takes one side of a store.

        Args:
            data: The side.
            sequence_length: The most tokens of a row.
        """
        assert data.labels is not None
        self._tokens, self._labels, self._starts = data.tokens, data.labels, data.offsets[:-1]
        self._checks = data.checks
        whole = np.diff(data.offsets)
        self._lengths = np.minimum(whole, sequence_length)
        self.num_rows = len(whole)
        self.num_truncated = int((whole > sequence_length).sum())
        self.num_useful = int(self._lengths.sum())

    def max_length(self, ids: Ids) -> int:
        """Tokens of the longest of these rows."""
        return int(self._lengths[ids].max())

    def num_units(self, ids: Ids, unit: Unit) -> Ids:
        """Each row is one sample; there is no other unit. `[rows]`"""
        return _ones(ids, unit)

    def take(self, ids: Ids, time: int, pad_id: int) -> LabelledRowArrays:
        """These rows, padded on the right to `time`; fresh arrays."""
        lengths = self._lengths[ids]
        starts = self._starts[ids]
        self._checks.require(starts, starts + lengths)
        inputs = np.full((len(ids), time), pad_id, np.int64)
        first = np.arange(len(ids)) * time
        inputs.ravel()[spans(first, first + lengths)] = self._tokens[
            spans(starts, starts + lengths)
        ]
        return LabelledRowArrays(inputs, self._labels.take(ids), lengths)


LabelledRows = NumberRows | LabelledTextRows


def _ones(ids: Ids, unit: Unit) -> Ids:
    assert unit == "samples", f"samples with a label have no {unit}"
    return np.ones(len(ids), np.int64)
