"""Rows of one sequence length over a store: text windows, or pairs with a loss mask.

All functions work on many rows at once. A row's inputs are its tokens without the last, its
targets its tokens without the first; `NO_LOSS` marks targets that are not learnt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phaseline.data.sources.protocol import Shape
    from phaseline.data.store import SplitData, Tokens

Ids = NDArray[np.int64]
NO_LOSS = -100

_LENGTH_MULTIPLE = 8


class Rows(Protocol):
    """What batches are cut from.

    Attributes:
        num_rows: Rows; ids are 0 to num_rows - 1.
        num_dropped: Documents that give no row at this sequence length.
    """

    num_rows: int
    num_dropped: int

    def max_length(self, ids: Ids) -> int:
        """Inputs of the longest of these rows, without padding."""
        ...

    def target_count(self, ids: Ids) -> int:
        """Targets with loss in all of these rows."""
        ...

    def take(self, ids: Ids, time: int, pad_id: int) -> tuple[Ids, Ids]:
        """Inputs and targets of these rows, fresh arrays of `[rows, time]`, int64."""
        ...


class TextRows:
    """Windows over the token stream; row i is `tokens[i * length : (i + 1) * length + 1]`."""

    def __init__(self, data: SplitData, sequence_length: int) -> None:
        self.num_rows = max(0, (len(data.tokens) - 1) // sequence_length)
        self.num_dropped = 0
        num_tokens = self.num_rows * sequence_length
        self._sequence_length = sequence_length
        # Two views of the mapped file, one token apart: taking rows copies whole runs.
        self._inputs = data.tokens[:num_tokens].reshape(-1, sequence_length)
        self._targets = data.tokens[1 : num_tokens + 1].reshape(-1, sequence_length)

    def max_length(self, ids: Ids) -> int:  # noqa: ARG002 - all rows are of one length
        """Inputs of the longest of these rows, without padding."""
        return self._sequence_length

    def target_count(self, ids: Ids) -> int:
        """Targets with loss in all of these rows."""
        return len(ids) * self._sequence_length

    def take(self, ids: Ids, time: int, pad_id: int) -> tuple[Ids, Ids]:  # noqa: ARG002 - same
        """Inputs and targets of these rows, fresh arrays of `[rows, time]`, int64."""
        assert time == self._sequence_length, "a phase never mixes texts and pairs"
        # Not `[ids]`: `take` knows that whole rows are meant, and costs half.
        inputs, targets = self._inputs.take(ids, axis=0), self._targets.take(ids, axis=0)
        return inputs.astype(np.int64), targets.astype(np.int64)


class PairRows:
    """Prompt, completion and end-of-sequence token, cut to the sequence length plus one.

    Only the completion and the token after it have loss. A pair whose completion is cut off
    completely gives no row.
    """

    def __init__(self, data: SplitData, sequence_length: int) -> None:
        prompt_lengths = _prompt_lengths(data)
        lengths = np.minimum(np.diff(data.offsets), sequence_length + 1)
        # Without a prompt the first token is only read: there is nothing to predict it from.
        num_targets = lengths - np.maximum(prompt_lengths, 1)
        kept = np.flatnonzero(num_targets > 0)
        self.num_rows = len(kept)
        self.num_dropped = data.num_documents - self.num_rows
        self._tokens = data.tokens
        self._starts = data.offsets[:-1][kept]
        self._num_inputs = lengths[kept] - 1
        self._num_targets = num_targets[kept]
        self._prompt_lengths = prompt_lengths[kept]

    def max_length(self, ids: Ids) -> int:
        """Inputs of the longest of these rows, without padding."""
        return int(self._num_inputs[ids].max())

    def target_count(self, ids: Ids) -> int:
        """Targets with loss in all of these rows."""
        return int(self._num_targets[ids].sum())

    def take(self, ids: Ids, time: int, pad_id: int) -> tuple[Ids, Ids]:
        """Inputs and targets of these rows, fresh arrays of `[rows, time]`, int64."""
        inputs = np.full((len(ids), time), pad_id, np.int64)
        targets = np.full((len(ids), time), NO_LOSS, np.int64)
        starts = self._starts[ids].tolist()
        ends = self._num_inputs[ids].tolist()
        counts = self._num_targets[ids].tolist()
        # A loop over rows: for a micro-batch it is faster than masks over the whole of it.
        for row, (start, end, count) in enumerate(zip(starts, ends, counts, strict=True)):
            inputs[row, :end] = self._tokens[start : start + end]
            targets[row, end - count : end] = self._tokens[
                start + end - count + 1 : start + end + 1
            ]
        return inputs, targets

    def prompt(self, row: int) -> Tokens:
        """The tokens of a row's prompt, not cut."""
        start = self._starts[row]
        return self._tokens[start : start + self._prompt_lengths[row]]


def build_rows(shape: Shape, data: SplitData, sequence_length: int) -> Rows:
    """Builds the rows that fit the store's shape."""
    if shape == "text":
        return TextRows(data, sequence_length)
    return PairRows(data, sequence_length)


def assemble(
    sources: Sequence[Rows], sample_ids: Ids, *, num_rows: int, sequence_length: int, pad_id: int
) -> tuple[Ids, Ids]:
    """Puts rows of several sources into one batch, in order, padded on the right.

    Args:
        sources: Rows of each source.
        sample_ids: (source index, id) of each row, `[at most num_rows, 2]`.
        num_rows: Rows of the batch; what the ids leave over is padding without loss.
        sequence_length: No row is longer.
        pad_id: Token for padding.

    Returns:
        Inputs and targets, both `[num_rows, time]`, int64. The time is that of the longest
        row, rounded up to a multiple of 8, at most the sequence length.
    """
    if len(sources) == 1 and len(sample_ids) == num_rows:
        rows, ids = sources[0], sample_ids[:, 1]
        return rows.take(ids, _padded(rows.max_length(ids), sequence_length), pad_id)
    parts = []
    for source_idx, rows in enumerate(sources):
        places = np.flatnonzero(sample_ids[:, 0] == source_idx)
        if len(places):
            parts.append((rows, places, sample_ids[places, 1]))
    longest = max((rows.max_length(ids) for rows, _, ids in parts), default=1)
    time = _padded(longest, sequence_length)
    inputs = np.full((num_rows, time), pad_id, np.int64)
    targets = np.full((num_rows, time), NO_LOSS, np.int64)
    for rows, places, ids in parts:
        inputs[places], targets[places] = rows.take(ids, time, pad_id)
    return inputs, targets


def _prompt_lengths(data: SplitData) -> Ids:
    """Tokens of each pair before the first that is learnt; `[sequences]`."""
    assert data.learnt is not None
    num_read = np.concatenate([[0], np.cumsum(data.learnt == 0)])
    lengths: Ids = num_read[data.offsets[1:]] - num_read[data.offsets[:-1]]
    return lengths


def _padded(length: int, sequence_length: int) -> int:
    return min(-(-length // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE, sequence_length)
