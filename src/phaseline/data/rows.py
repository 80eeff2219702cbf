"""Rows of one sequence length over a store: what batches are cut from.

All functions work on many rows at once. A row's inputs are tokens, its targets the tokens after
them; `NO_LOSS` marks targets that are not learnt. Where a row holds several documents, no target
belongs to another document than its input, and positions begin again with each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from phaseline.data.store import SplitData

Ids = NDArray[np.int64]
NO_LOSS = -100

Unit = Literal["tokens", "pairs", "samples"]
"""What losses are counted in: targets with loss, pairs of answers, or rows."""


class RowArrays(NamedTuple):
    """Rows as they go through a model.

    Attributes:
        inputs: `[rows, time]`, int64.
        targets: The token after each input, or `NO_LOSS`. `[rows, time]`, int64.
        positions: Of each input in its document, `[rows, time]`, int64; None if no row holds
            more than one document. Padding goes on counting.
        pairs: Of preferences, the number of each pair in each row, -1 where a row has fewer;
            None of other shapes. Pair p of a row is its documents 2 p and 2 p + 1.
            `[rows, most pairs of a row]`, int64.
    """

    inputs: Ids
    targets: Ids
    positions: Ids | None
    pairs: Ids | None = None


class Rows(Protocol):
    """What batches are cut from.

    Attributes:
        num_rows: Rows; ids are 0 to num_rows - 1.
        num_dropped: Documents that give no row at this sequence length.
        num_truncated: Documents whose end does not fit a row and is left out.
        num_useful: Positions, of all rows, that hold a token and know the next of its document.
        num_pairs: Pairs of answers, whose numbers are 0 to num_pairs - 1; 0 of other shapes.
    """

    num_rows: int
    num_dropped: int
    num_truncated: int
    num_useful: int
    num_pairs: int

    def max_length(self, ids: Ids) -> int:
        """Inputs of the longest of these rows, without padding."""
        ...

    def num_units(self, ids: Ids, unit: Unit) -> Ids:
        """Units in each of these rows: targets with loss, pairs of answers, or itself. `[rows]`"""
        ...

    def take(self, ids: Ids, time: int, pad_id: int) -> RowArrays:
        """These rows, padded on the right to `time`; fresh arrays."""
        ...


class TextWindows:
    """Documents end to end, cut into windows; row i begins at token `i * length`.

    The last token of a document has no target. A document goes on in the next window, where its
    positions begin again.
    """

    num_dropped = 0
    num_truncated = 0
    num_pairs = 0

    def __init__(self, data: SplitData, sequence_length: int) -> None:
        self.num_rows = max(0, (len(data.tokens) - 1) // sequence_length)
        num_tokens = self.num_rows * sequence_length
        self._sequence_length = sequence_length
        # Two views of the mapped file, one token apart: taking rows copies whole runs.
        self._inputs = data.tokens[:num_tokens].reshape(-1, sequence_length)
        self._targets = data.tokens[1 : num_tokens + 1].reshape(-1, sequence_length)
        self._begins = data.offsets
        self._checks = data.checks
        self._edges = np.array([[0], [sequence_length]])
        _, num_begins = self._begins.searchsorted([0, num_tokens], side="right").tolist()
        # The very first document begins before any target.
        self.num_useful = num_tokens - max(0, num_begins - 1)

    def max_length(self, ids: Ids) -> int:  # noqa: ARG002 - all rows are of one length
        """Inputs of the longest of these rows, without padding."""
        return self._sequence_length

    def num_units(self, ids: Ids, unit: Unit) -> Ids:
        """Targets with loss in each of these rows; texts have no other unit. `[rows]`"""
        assert unit == "tokens", f"texts have no {unit}"
        first, end = self._begins_after(ids)
        counts: Ids = self._sequence_length - (end - first)
        return counts

    def take(self, ids: Ids, time: int, pad_id: int) -> RowArrays:  # noqa: ARG002 - never padded
        """These rows; fresh arrays."""
        assert time == self._sequence_length, "a phase never mixes texts and pairs"
        begins_at = ids * time
        self._checks.require(begins_at, begins_at + time + 1)
        # Not `[ids]`: `take` knows that whole rows are meant, and costs half.
        inputs = self._inputs.take(ids, axis=0).astype(np.int64)
        targets = self._targets.take(ids, axis=0).astype(np.int64)
        first, end = self._begins_after(ids)
        # As lists: of so few numbers that is the cheapest comparison by far.
        if first.tolist() == end.tolist():
            return RowArrays(inputs, targets, None)
        rows = np.repeat(np.arange(len(ids)), end - first)
        begins = self._begins[spans(first, end)] - ids[rows] * time
        targets[rows, begins - 1] = NO_LOSS
        inside = begins < time
        if not inside.any():
            return RowArrays(inputs, targets, None)
        return RowArrays(inputs, targets, _positions(len(ids), time, rows[inside], begins[inside]))

    def _begins_after(self, ids: Ids) -> tuple[Ids, Ids]:
        """Of the documents that begin after each row's first token, the first and the end.

        The one that begins right behind the row belongs to them: the row's last target is its
        first token.
        """
        # One search for both ends: in a micro-batch it is the call that costs.
        first, end = self._begins.searchsorted(
            ids * self._sequence_length + self._edges, side="right"
        )
        return first, end


def _positions(num_rows: int, time: int, rows: Ids, begins: Ids) -> Ids:
    """Positions that count on from 0 and fall back to it where documents begin.

    Args:
        num_rows: Rows.
        time: Of each.
        rows: The row of every document but the first of its row, in order.
        begins: Where it begins there; not 0.
    """
    latest_begin = np.zeros((num_rows, time), np.int64)
    latest_begin[rows, begins] = begins
    np.maximum.accumulate(latest_begin, axis=1, out=latest_begin)
    positions: Ids = np.arange(time) - latest_begin
    return positions


def spans(first: Ids, end: Ids) -> Ids:
    """The numbers from each first to before its end, one span after the other."""
    lengths = end - first
    before = np.cumsum(lengths) - lengths
    numbers: Ids = np.arange(lengths.sum()) + np.repeat(first - before, lengths)
    return numbers
