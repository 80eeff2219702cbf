"""The stream of samples of one phase: which rows make up the global batch of a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from phaseline.data.order import EpochOrder, Ids, Mixture, Order, SequentialOrder

if TYPE_CHECKING:
    from collections.abc import Sequence

STEPS_AT_ONCE = 64
"""Steps of a block: one vector call for many steps costs little more than for one."""


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
        is_shuffled: bool = True,
    ) -> None:
        """Sets up the order of every source.

        Args:
            num_rows: Rows of each source.
            weights: Share of each source.
            seed: The session's.
            phase_idx: Phases see the same data in different orders.
            global_size: Samples per step.
            is_shuffled: Whether every epoch has an order of its own; False: each source is gone
                through from its first row to its last.
        """
        self._mixture = Mixture(weights)
        self._num_rows = tuple(num_rows)
        self._orders: list[Order] = [
            EpochOrder(count, "order", seed, phase_idx, source_idx)
            if is_shuffled
            else SequentialOrder(count)
            for source_idx, count in enumerate(num_rows)
        ]
        self._global_size = global_size
        self._block_idx = -1
        self._block = np.empty((0, global_size, 2), np.int64)

    def sample_ids(self, step: int) -> Ids:
        """(source index, row id) of each sample of a step, `[global_size, 2]`; do not write."""
        block_idx, step_in_block = divmod(step, STEPS_AT_ONCE)
        ids: Ids = self.block(block_idx)[step_in_block]
        return ids

    def block(self, block_idx: int) -> Ids:
        """The same of `STEPS_AT_ONCE` steps, `[steps, global_size, 2]`; do not write."""
        if block_idx != self._block_idx:
            self._block = self._compute(block_idx)
            self._block_idx = block_idx
        return self._block

    def epochs(self, num_steps: int) -> list[float]:
        """How often the first so many steps go through each source."""
        counts = self._mixture.counts_before(num_steps * self._global_size)
        return [count / total for count, total in zip(counts, self._num_rows, strict=True)]

    def _compute(self, block_idx: int) -> Ids:
        num_positions = STEPS_AT_ONCE * self._global_size
        positions = np.arange(num_positions, dtype=np.int64) + block_idx * num_positions
        sources, within = self._mixture.locate(positions)
        ids = np.empty_like(within)
        for source_idx, order in enumerate(self._orders):
            here = sources == source_idx
            ids[here] = order.ids(within[here])
        block = np.stack([sources, ids], axis=1).reshape(STEPS_AT_ONCE, self._global_size, 2)
        block.flags.writeable = False
        return block
