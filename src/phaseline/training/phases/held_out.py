"""Losses on held-out data, every example once, whatever the batch size and the ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from phaseline.data.batch import Batch
from phaseline.distributed.world import World
from phaseline.objectives.base import IGNORED_TARGET


class HeldOutTotals:
    """Sums over targets on the device; the means are taken once, over all ranks."""

    def __init__(
        self,
        token_bytes: torch.Tensor,
        position_ranges: Sequence[str],
        source_names: Sequence[str],
        device: torch.device,
    ) -> None:
        """Starts at zero.

        Args:
            token_bytes: Bytes that each token stands for. [vocabulary], int
            position_ranges: As `512-1023`; their losses are also reported alone. Positions are
                those that the model sees: where documents are kept apart, in the document.
            source_names: Of each source; if there are several, their losses are also reported.
            device: Where batches lie.
        """
        self._token_bytes = token_bytes.to(device=device, dtype=torch.float64)
        self._source_keys = [f"loss_{name}" for name in source_names if len(source_names) > 1]
        self._range_keys = [f"loss_at_{item.replace('-', '_to_')}" for item in position_ranges]
        self._bounds = [
            (int(first), int(last) + 1)
            for first, last in (item.split("-") for item in position_ranges)
        ]
        num_parts = 1 + len(self._source_keys) + len(self._bounds)
        self._totals = torch.zeros(1 + 2 * num_parts, dtype=torch.float64, device=device)

    def add(self, losses: torch.Tensor, batch: Batch) -> None:
        """Counts one batch.

        Args:
            losses: Loss of every target, 0 where there is none. [batch, sequence]
            batch: The batch that they belong to.
        """
        counted = batch.targets != IGNORED_TARGET
        losses = losses.double()
        num_bytes = self._token_bytes[batch.targets.clamp(min=0)] * counted
        sums = [num_bytes.sum()]
        for part in (counted, *self._parts(batch, counted)):
            sums += [(losses * part).sum(), part.sum()]
        self._totals += torch.stack([value.double() for value in sums])

    def metrics(self, prefix: str, world: World) -> dict[str, float]:
        """Returns the means over all ranks, under `prefix/`. **Ranks:** all. One collective."""
        totals = world.all_reduce_sum(self._totals.clone()).cpu().tolist()
        num_bytes, loss, num_targets, *parts = totals
        found = {f"{prefix}/loss": loss / num_targets if num_targets else math.nan}
        if num_bytes:
            found[f"{prefix}/bits_per_byte"] = loss / math.log(2) / num_bytes
        keys = [*self._source_keys, *self._range_keys]
        for key, part_loss, part_targets in zip(keys, parts[::2], parts[1::2], strict=True):
            if part_targets:
                found[f"{prefix}/{key}"] = part_loss / part_targets
        return found

    def _parts(self, batch: Batch, counted: torch.Tensor) -> Iterator[torch.Tensor]:
        """Which targets count in each part that is reported alone. [batch, sequence]"""
        if self._source_keys:
            assert batch.source_ids is not None
            for source_idx in range(len(self._source_keys)):
                yield counted & (batch.source_ids == source_idx).unsqueeze(1)
        positions = batch.position_ids
        if positions is None:
            positions = torch.arange(counted.shape[1], device=counted.device)
        for first, end in self._bounds:
            yield counted & (positions >= first) & (positions < end)
