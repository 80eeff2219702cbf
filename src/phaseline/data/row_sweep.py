"""Batches that hold every row once, source after source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from phaseline.data.batch import AnyBatch, build_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phaseline.data.batch_arrays import AnyRows, Assembler
    from phaseline.data.rows import Ids


class RowSweep:
    """One pass over rows, spread over the ranks.

    Attributes:
        num_sequences: Rows that it goes through.
    """

    def __init__(
        self, sources: Sequence[AnyRows], assembler: Assembler, *, max_sequences: int | None
    ) -> None:
        """Chooses the rows.

        Args:
            sources: Rows of each source.
            assembler: Puts these into batches.
            max_sequences: At most so many, spread evenly over all; None: all.
        """
        every = numbered([rows.num_rows for rows in sources])
        self._sample_ids = every[spread(len(every), max_sequences)]
        self._assembler = assembler
        self.num_sequences = len(self._sample_ids)

    def num_batches(self, dp_world_size: int, micro_size: int) -> int:
        """Batches that every rank runs; the same on all ranks, so that collectives match."""
        return -(-self.num_sequences // (dp_world_size * micro_size))

    def batch(self, batch_idx: int, dp_rank: int, dp_world_size: int, micro_size: int) -> AnyBatch:
        """One rank's batch; always `micro_size` rows, of which the last ones may be filler."""
        first = (batch_idx * dp_world_size + dp_rank) * micro_size
        sample_ids = self._sample_ids[first : first + micro_size]
        return build_batch(self._assembler.assemble(sample_ids, micro_size))


def numbered(counts: Sequence[int]) -> Ids:
    """(source index, id) of everything, source after source. `[sum of counts, 2]`"""
    parts = [
        np.stack([np.full(count, source_idx), np.arange(count)], axis=1)
        for source_idx, count in enumerate(counts)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, 2), np.int64)


def spread(num_items: int, max_items: int | None) -> Ids:
    """Indices of at most so many items, evenly spaced from the first on."""
    num_chosen = num_items if max_items is None else min(max_items, num_items)
    return np.arange(num_chosen, dtype=np.int64) * num_items // max(1, num_chosen)
