"""The stream of samples of one phase: which rows make up the global batch of a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from phaseline.data.order import EpochOrder, Ids, Mixture

if TYPE_CHECKING:
    from collections.abc import Sequence

# One vector call for many steps costs little more than for one.
_STEPS_AT_ONCE = 64


class SampleStream:
    """Computes sample ids from (seed, phase, step); independent of ranks and micro-batches."""

    def __init__(
        self,
        num_rows: Sequence[int],
        weights: Sequence[float],
        *,
        seed: int,
        phase_idx: int,
        global_size: int,
    ) -> None:
        """Sets up the order of every source.

        Args:
            num_rows: Rows of each source.
            weights: Share of each source.
            seed: The session's.
            phase_idx: Phases see the same data in different orders.
            global_size: Samples per step.
        """
        self._mixture = Mixture(weights)
        self._orders = [
            EpochOrder(count, "order", seed, phase_idx, source_idx)
            for source_idx, count in enumerate(num_rows)
        ]
        self._global_size = global_size
        self._block_idx = -1
        self._block = np.empty((0, global_size, 2), np.int64)

    def sample_ids(self, step: int) -> Ids:
        """(source index, row id) of each sample of a step, `[global_size, 2]`; do not write."""
        block_idx, step_in_block = divmod(step, _STEPS_AT_ONCE)
        if block_idx != self._block_idx:
            self._block = self._compute(block_idx)
            self._block_idx = block_idx
        ids: Ids = self._block[step_in_block]
        return ids

    def _compute(self, block_idx: int) -> Ids:
        num_positions = _STEPS_AT_ONCE * self._global_size
        positions = np.arange(num_positions, dtype=np.int64) + block_idx * num_positions
        sources, within = self._mixture.locate(positions)
        ids = np.empty_like(within)
        for source_idx, order in enumerate(self._orders):
            here = sources == source_idx
            ids[here] = order.ids(within[here])
        block = np.stack([sources, ids], axis=1).reshape(_STEPS_AT_ONCE, self._global_size, 2)
        block.flags.writeable = False
        return block
