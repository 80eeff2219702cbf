"""Rows of several sources put into one batch, as plain arrays. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from phaseline.data.labelled_rows import LabelledRows, LabelledTextRows, NumberRows
from phaseline.data.rows import NO_LOSS, Ids, Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

AnyRows = Rows | LabelledRows
"""Rows of tokens, or of samples with a label; never both in a phase."""

_LENGTH_MULTIPLE = 8
_NUM_PLANES = 3
_INT64_BYTES = 8


class BatchArrays(NamedTuple):
    """What goes through the model at once.

    Attributes:
        inputs: `[batch, time]`, int64.
        targets: The token after each input, or `NO_LOSS`. `[batch, time]`, int64.
        positions: Of each input in its document, `[batch, time]`, int64; None where no row holds
            more than one document, or where documents are not kept apart.
        sources: The source of each row, `[batch]`, int64; None if there is one source.
        num_samples: Rows that are samples; the others fill the batch up and have no targets.
        pairs: Of preferences, the number of each pair in each row, counted on over the sources;
            -1 where a row has fewer, as filler has none. `[batch, most pairs of a row]`, int64;
            None of other shapes.
    """

    inputs: Ids
    targets: Ids
    positions: Ids | None
    sources: Ids | None
    num_samples: int
    pairs: Ids | None = None


class LabelledArrays(NamedTuple):
    """Samples with a label that go through the model at once.

    Attributes:
        inputs: Images or features, `[batch, ...]`, fp32; or tokens, `[batch, time]`, int64.
        labels: The class of each row, or `NO_LOSS`. `[batch]`, int64.
        lengths: Tokens of each row without padding, `[batch]`, int64; None of numbers.
        sources: The source of each row, `[batch]`, int64; None if there is one source.
        num_samples: Rows that are samples; the others fill the batch up and have no label.
    """

    inputs: NDArray[Any]
    labels: Ids
    lengths: Ids | None
    sources: Ids | None
    num_samples: int


class Assembler(Protocol):
    """Puts rows of several sources into batches."""

    def assemble(self, sample_ids: Ids, num_rows: int) -> BatchArrays | LabelledArrays:
        """Puts samples into one batch of so many rows."""
        ...

    def most_bytes(self, num_rows: int) -> int:
        """What the arrays of a batch of so many rows take at most."""
        ...


class BatchAssembler:
    """Puts rows into batches, in order, padded on the right.

    The time of a batch is that of its longest row, rounded up to a multiple of 8, at most the
    sequence length.
    """

    def __init__(
        self, sources: Sequence[Rows], *, sequence_length: int, pad_id: int, is_separate: bool
    ) -> None:
        """Takes the rows.

        Args:
            sources: Rows of each source.
            sequence_length: No row is longer.
            pad_id: Token for padding.
            is_separate: Whether batches say where documents begin.
        """
        self._sources = tuple(sources)
        self._sequence_length = sequence_length
        self._pad_id = pad_id
        self._is_separate = is_separate
        num_pairs = [rows.num_pairs for rows in self._sources]
        self._first_pairs = np.cumsum([0, *num_pairs]).tolist()

    def assemble(self, sample_ids: Ids, num_rows: int) -> BatchArrays:
        """Puts samples into one batch.

        Args:
            sample_ids: (source index, id) of each row, `[at most num_rows, 2]`.
            num_rows: Rows of the batch; what the ids leave over is padding without loss.
        """
        if len(self._sources) == 1 and len(sample_ids) == num_rows:
            rows, ids = self._sources[0], sample_ids[:, 1]
            time = self._time(rows.max_length(ids))
            inputs, targets, positions, pairs = rows.take(ids, time, self._pad_id)
            positions = positions if self._is_separate else None
            return BatchArrays(inputs, targets, positions, None, num_rows, pairs)
        return self._merge(sample_ids, num_rows)

    def most_bytes(self, num_rows: int) -> int:
        """What the arrays of a batch of so many rows take at most."""
        return _NUM_PLANES * num_rows * self._sequence_length * _INT64_BYTES

    def _merge(self, sample_ids: Ids, num_rows: int) -> BatchArrays:
        places = [
            (source_idx, np.flatnonzero(sample_ids[:, 0] == source_idx))
            for source_idx in range(len(self._sources))
        ]
        parts = [(idx, here, sample_ids[here, 1]) for idx, here in places if len(here)]
        longest = (self._sources[idx].max_length(ids) for idx, _, ids in parts)
        time = self._time(max(longest, default=1))
        inputs = np.full((num_rows, time), self._pad_id, np.int64)
        targets = np.full((num_rows, time), NO_LOSS, np.int64)
        positions = np.tile(np.arange(time), (num_rows, 1))
        is_divided = False
        pairs_of: list[tuple[Ids, Ids]] = []
        for idx, here, ids in parts:
            rows = self._sources[idx].take(ids, time, self._pad_id)
            inputs[here], targets[here], inside, pairs = rows
            if inside is not None:
                positions[here] = inside
                is_divided = True
            if pairs is not None:
                first = self._first_pairs[idx]
                pairs_of.append((here, np.where(pairs < 0, -1, pairs + first)))
        sources = None
        if len(self._sources) > 1:
            sources = np.zeros(num_rows, np.int64)
            sources[: len(sample_ids)] = sample_ids[:, 0]
        shown = positions if is_divided and self._is_separate else None
        merged = self._merge_pairs(pairs_of, num_rows)
        return BatchArrays(inputs, targets, shown, sources, len(sample_ids), merged)

    def _merge_pairs(self, parts: Sequence[tuple[Ids, Ids]], num_rows: int) -> Ids | None:
        if not self._first_pairs[-1]:
            return None
        # One column where there is only filler: a loss must come from every batch.
        merged = np.full((num_rows, max((p.shape[1] for _, p in parts), default=1)), -1, np.int64)
        for here, pairs in parts:
            merged[here, : pairs.shape[1]] = pairs
        return merged

    def _time(self, longest: int) -> int:
        return _rounded(longest, self._sequence_length)


class LabelledAssembler:
    """Puts samples with a label into batches, in order; texts are padded as token rows are."""

    def __init__(
        self, sources: Sequence[LabelledRows], *, sequence_length: int | None, pad_id: int
    ) -> None:
        """Takes the rows.

        Args:
            sources: Rows of each source, all of one form.
            sequence_length: No row is longer; None of images and features.
            pad_id: Token for padding.
        """
        self._sources = tuple(sources)
        self._most_time = sequence_length or 1
        self._pad_id = pad_id

    def assemble(self, sample_ids: Ids, num_rows: int) -> LabelledArrays:
        """Puts samples into one batch.

        Args:
            sample_ids: (source index, id) of each row, `[at most num_rows, 2]`.
            num_rows: Rows of the batch; what the ids leave over is padding without a label.
        """
        places = [
            (rows, np.flatnonzero(sample_ids[:, 0] == source_idx))
            for source_idx, rows in enumerate(self._sources)
        ]
        parts = [(rows, here, sample_ids[here, 1]) for rows, here in places if len(here)]
        longest = max((rows.max_length(ids) for rows, _, ids in parts), default=1)
        time = _rounded(longest, self._most_time)
        inputs, lengths = self._empty(num_rows, time)
        labels = np.full(num_rows, NO_LOSS, np.int64)
        for rows, here, ids in parts:
            inputs[here], labels[here], tokens = rows.take(ids, time, self._pad_id)
            if lengths is not None and tokens is not None:
                lengths[here] = tokens
        sources = None
        if len(self._sources) > 1:
            sources = np.zeros(num_rows, np.int64)
            sources[: len(sample_ids)] = sample_ids[:, 0]
        return LabelledArrays(inputs, labels, lengths, sources, len(sample_ids))

    def most_bytes(self, num_rows: int) -> int:
        """What the arrays of a batch of so many rows take at most."""
        inputs, _ = self._empty(1, self._most_time)
        return num_rows * (inputs.nbytes + 2 * _INT64_BYTES)

    def _empty(self, num_rows: int, time: int) -> tuple[NDArray[Any], Ids | None]:
        """Inputs and lengths of rows that hold nothing."""
        first = self._sources[0]
        if isinstance(first, NumberRows):
            return np.zeros((num_rows, *first.item_shape), np.float32), None
        # Of one token, which is padding: attention to nothing at all gives no number.
        return np.full((num_rows, time), self._pad_id), np.ones(num_rows, np.int64)


def build_assembler(
    sources: Sequence[AnyRows],
    *,
    sequence_length: int | None,
    pad_id: int,
    is_separate: bool,
) -> Assembler:
    """Builds what puts these rows into batches.

    Args:
        sources: Rows of each source, all of one kind.
        sequence_length: No row is longer; None of images and features.
        pad_id: Token for padding.
        is_separate: Whether batches say where documents begin.
    """
    labelled = [rows for rows in sources if isinstance(rows, (NumberRows, LabelledTextRows))]
    if labelled:
        return LabelledAssembler(labelled, sequence_length=sequence_length, pad_id=pad_id)
    assert sequence_length is not None
    return BatchAssembler(
        cast("Sequence[Rows]", sources),
        sequence_length=sequence_length,
        pad_id=pad_id,
        is_separate=is_separate,
    )


def _rounded(longest: int, most: int) -> int:
    return min(-(-longest // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE, most)
