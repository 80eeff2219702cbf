"""Held-out batches: every held-out row once, source after source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from phaseline.data.batch import AnyBatch, build_batch
from phaseline.data.batch_arrays import AnyRows, Assembler
from phaseline.data.sequence_rows import SequenceRows
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phaseline.data.rows import Ids
    from phaseline.data.tokenizer import Tokenizer


class HeldOut:
    """Validation batches.

    Attributes:
        num_sequences: Rows that are validated on, after `max_sequences`.
    """

    def __init__(
        self,
        sources: Sequence[AnyRows],
        assembler: Assembler,
        tokenizer: Tokenizer,
        *,
        max_sequences: int | None,
    ) -> None:
        """Chooses the rows.

        Args:
            sources: Held-out rows of each source.
            assembler: Puts these into batches.
            tokenizer: Turns prompts back into text.
            max_sequences: At most so many, spread evenly over all; None: all.
        """
        every = _numbered([rows.num_rows for rows in sources])
        self._sample_ids = every[_spread(len(every), max_sequences)]
        self._sources = tuple(sources)
        self._tokenizer = tokenizer
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

    def prompts(self, num_prompts: int) -> list[str]:
        """At most so many prompts of all samples that are held out, spread evenly.

        Raises:
            DataError: These are texts, which have no prompts.
        """
        sources = [rows for rows in self._sources if isinstance(rows, SequenceRows)]
        every = _numbered([rows.num_prompts for rows in sources])
        if len(every) == 0:
            raise DataError(
                "held-out prompts were asked for of a phase that trains on text; only pairs "
                "have prompts. Give `evaluate.samples.prompts`, not `held_out_prompts`."
            )
        chosen = every[_spread(len(every), num_prompts)].tolist()
        return [
            self._tokenizer.decode(sources[source_idx].prompt(idx).tolist())
            for source_idx, idx in chosen
        ]


def _numbered(counts: Sequence[int]) -> Ids:
    """(source index, id) of everything, source after source. `[sum of counts, 2]`"""
    parts = [
        np.stack([np.full(count, source_idx), np.arange(count)], axis=1)
        for source_idx, count in enumerate(counts)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, 2), np.int64)


def _spread(num_items: int, max_items: int | None) -> Ids:
    """Indices of at most so many items, evenly spaced from the first on."""
    num_chosen = num_items if max_items is None else min(max_items, num_items)
    return np.arange(num_chosen, dtype=np.int64) * num_items // max(1, num_chosen)
