"""Rows of several sources put into one batch, as plain arrays. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from phaseline.data.rows import NO_LOSS, Ids, Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

_LENGTH_MULTIPLE = 8


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
        rounded = -(-longest // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
        return min(rounded, self._sequence_length)
