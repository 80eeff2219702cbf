"""Held-out batches: every held-out row once, source after source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phaseline.data.row_sweep import RowSweep, numbered, spread
from phaseline.data.sequence_rows import SequenceRows
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phaseline.data.batch_arrays import AnyRows, Assembler
    from phaseline.data.tokenizer import Tokenizer


class HeldOut(RowSweep):
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
        super().__init__(sources, assembler, max_sequences=max_sequences)
        self._sources = tuple(sources)
        self._tokenizer = tokenizer

    def prompts(self, num_prompts: int) -> list[str]:
        """At most so many prompts of all samples that are held out, spread evenly.

        Raises:
            DataError: These are texts, which have no prompts.
        """
        sources = [rows for rows in self._sources if isinstance(rows, SequenceRows)]
        every = numbered([rows.num_prompts for rows in sources])
        if len(every) == 0:
            raise DataError(
                "held-out prompts were asked for of a phase that trains on text; only pairs "
                "have prompts. Give `evaluate.samples.prompts`, not `held_out_prompts`."
            )
        chosen = every[spread(len(every), num_prompts)].tolist()
        return [
            self._tokenizer.decode(sources[source_idx].prompt(idx).tolist())
            for source_idx, idx in chosen
        ]
