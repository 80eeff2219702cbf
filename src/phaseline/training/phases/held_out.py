"""Losses on held-out data, every example once, whatever the batch size and the ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from phaseline.data.phase_data import Batch
from phaseline.distributed.world import World
from phaseline.objectives.base import IGNORED_TARGET


class HeldOutTotals:
    """Sums over targets on the device; the means are taken once, over all ranks."""

    def __init__(
        self, token_bytes: torch.Tensor, position_ranges: Sequence[str], device: torch.device
    ) -> None:
        """Starts at zero.

        Args:
            token_bytes: Bytes that each token stands for. [vocabulary], int
            position_ranges: As `512-1023`; their losses are also reported alone.
            device: Where batches lie.
        """
        self._token_bytes = token_bytes.to(device=device, dtype=torch.float64)
        self._ranges = list(position_ranges)
        self._bounds = [
            (int(first), int(last) + 1)
            for first, last in (item.split("-") for item in position_ranges)
        ]
        self._totals = torch.zeros(3 + 2 * len(self._bounds), dtype=torch.float64, device=device)

    def add(self, losses: torch.Tensor, batch: Batch) -> None:
        """Counts one batch.

        Args:
            losses: Loss of every target, 0 where there is none. [batch, sequence]
            batch: The batch that they belong to.
        """
        counted = batch.targets != IGNORED_TARGET
        losses = losses.double()
        num_bytes = self._token_bytes[batch.targets.clamp(min=0)] * counted
        sums = [losses.sum(), counted.sum(), num_bytes.sum()]
        for first, end in self._bounds:
            sums += [losses[:, first:end].sum(), counted[:, first:end].sum()]
        self._totals += torch.stack([value.double() for value in sums])

    def metrics(self, prefix: str, world: World) -> dict[str, float]:
        """Returns the means over all ranks, under `prefix/`. **Ranks:** all. One collective."""
        totals = world.all_reduce_sum(self._totals.clone()).cpu().tolist()
        loss, num_targets, num_bytes, *ranges = totals
        found = {f"{prefix}/loss": loss / num_targets if num_targets else math.nan}
        if num_bytes:
            found[f"{prefix}/bits_per_byte"] = loss / math.log(2) / num_bytes
        for idx, name in enumerate(self._ranges):
            range_loss, range_targets = ranges[2 * idx], ranges[2 * idx + 1]
            if range_targets:
                key = f"{prefix}/loss_at_{name.replace('-', '_to_')}"
                found[key] = range_loss / range_targets
        return found
