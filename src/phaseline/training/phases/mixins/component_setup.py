"""Beginning and ending work: modes, random state, moving batches."""

from __future__ import annotations

import time

from phaseline.data.batch import AnyBatch
from phaseline.distributed.seeding import position_seed, seed_all
from phaseline.training.phases.mixins.host import PhaseHost


class ComponentSetupMixin(PhaseHost):
    """Readies components for a piece of work.

    **Needs:** engine, world, loader, data, reference, seed, meter. **Gives:** modes, seeds, batches on the device,
    and the time that went into evaluation and into waiting for data. **Ranks:** all.
    **Collectives:** those of a forward, where batches are held against a reference.
    """

    def begin_training(self) -> None:
        """Puts the model into training mode."""
        self.runtime.meter.end_evaluation()
        self.runtime.engine.model.train()

    def begin_evaluation(self) -> None:
        """Puts the model into evaluation mode."""
        self.runtime.meter.begin_evaluation()
        self.runtime.engine.model.eval()

    def seed_micro_step(self, step: int, micro_step: int) -> None:
        """Makes what this micro-step draws depend on its position alone."""
        runtime = self.runtime
        rank = runtime.world.dp_rank
        seed = position_seed(runtime.seed, runtime.phase_idx, step, micro_step, rank)
        seed_all(seed, runtime.world.device)

    def fetch(self, step: int, micro_step: int) -> AnyBatch:
        """Returns this rank's micro-batch of a step, on the device, with what it is held against."""
        runtime = self.runtime
        began = time.perf_counter()
        batch = runtime.loader.micro_batch(step, micro_step)
        # Without the copy to the device, which waits for the step before, not for data.
        runtime.meter.data_wait_s += time.perf_counter() - began
        return runtime.reference.attach(batch.to(runtime.world.device), "train")

    def fetch_held_out(self, batch_idx: int, micro_size: int) -> AnyBatch:
        """Returns this rank's held-out batch, likewise."""
        runtime, world = self.runtime, self.runtime.world
        held_out = runtime.data.held_out
        batch = held_out.batch(batch_idx, world.dp_rank, world.dp_world_size, micro_size)
        return runtime.reference.attach(batch.to(world.device), "held_out")
