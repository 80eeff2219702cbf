"""One pass of a policy that is not trained yet over all pairs: what it is held against later."""

from __future__ import annotations

import time

import torch

from phaseline.data.batch import Batch
from phaseline.data.encoded_chunk import Split
from phaseline.errors import EngineError
from phaseline.models.lora import adapters_off
from phaseline.objectives.preferences import answer_logps
from phaseline.training.phases.reference_files import SIDES
from phaseline.training.phases.runtime import PhaseRuntime

_SAY_EVERY_S = 30.0


class ReferencePass:
    """Measures the log-probabilities of every pair, spread over the ranks."""

    def __init__(self, runtime: PhaseRuntime) -> None:
        """Takes a phase's runtime before its first step, in evaluation mode."""
        self._runtime = runtime
        self._said_s = time.monotonic()

    def run(self) -> dict[Split, torch.Tensor] | None:
        """The numbers of each side, alike on all ranks. **Ranks:** all.

        Returns:
            Of every pair chosen and rejected, `[pairs, 2]`, fp32, on the world's device. None:
            the ranks agreed to stop.

        Raises:
            EngineError: Some of them are not finite.
        """
        tables = {}
        self._runtime.stop.begin()
        for side in SIDES:
            table = self._measure(side)
            if table is None:
                return None
            tables[side] = table
        return tables

    def _measure(self, side: Split) -> torch.Tensor | None:
        runtime = self._runtime
        world, engine = runtime.world, runtime.engine
        sweep = runtime.data.sweep(side)
        micro_size = runtime.section.evaluate.micro_size or runtime.section.batch.micro_size
        num_pairs = sum(runtime.data.num_pairs(side))
        # One more, which -1 stands for: where a row has no pair, its 0 goes there.
        table = torch.zeros(num_pairs + 1, 2, device=world.device)
        num_batches = sweep.num_batches(world.dp_world_size, micro_size)
        with torch.no_grad(), adapters_off(engine.module):
            for idx in range(num_batches):
                if runtime.stop.agreed():
                    return None
                self._say_share(side, idx / num_batches)
                mine = sweep.batch(idx, world.dp_rank, world.dp_world_size, micro_size)
                batch = mine.to(world.device)
                assert isinstance(batch, Batch)
                assert batch.pair_ids is not None
                table[batch.pair_ids] = answer_logps(engine.model, batch)
        # Every pair was some one rank's; the others have 0 there.
        measured = world.all_reduce_sum(table)[:num_pairs]
        num_bad = int((~measured.isfinite()).any(dim=1).sum())
        if num_bad:
            raise EngineError(
                f"phases[{runtime.phase_idx}] ({runtime.section.name}): the model that it starts "
                f"from gives {num_bad} of {num_pairs} pairs a log-probability that is not finite, "
                "so there is nothing to hold the policy to. Check the weights, or set "
                "engine.precision to fp32."
            )
        return measured

    def _say_share(self, side: Split, share: float) -> None:
        now_s = time.monotonic()
        if self._runtime.world.is_main and now_s - self._said_s >= _SAY_EVERY_S:
            self._said_s = now_s
            pairs = "training pairs" if side == "train" else "held-out pairs"
            self._runtime.display.note(
                f"{self._runtime.section.name}: the reference is measured on {share:.0%} of the {pairs}"
            )
