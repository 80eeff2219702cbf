"""The checkpoint of a trial: some of a live engine's state, written, read back and compared.

What it costs is bounded, whatever the model and however many ranks: each rank writes a sample
of its part and reads that alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from phaseline.checkpoint.manifest import verify
from phaseline.checkpoint.reader import index_name, optimizer_name, weights_name
from phaseline.checkpoint.store import CheckpointStore, SavedPosition
from phaseline.checkpoint.writer import RankState
from phaseline.distributed.engines.base import SavedEngine, StateFragment, whole_shape
from phaseline.distributed.world import World
from phaseline.errors import CheckpointError

SAMPLE_BYTES = 1 << 26
"""How much of its state a rank writes in a trial, 64 MiB; buffers of the model come besides."""


def try_checkpoint(
    store: CheckpointStore,
    engine: SavedEngine,
    world: World,
    *,
    phase: str,
    state: Mapping[str, Any],
    sample_bytes: int = SAMPLE_BYTES,
) -> None:
    """Publishes a checkpoint of some of the state, and compares what each rank reads back.

    **Ranks:** all.

    Args:
        store: Where the trial's checkpoint goes.
        engine: The live engine, after a step, so that it has the optimizer's state.
        world: The started world.
        phase: Name of the phase.
        state: JSON state that is alike on all ranks.
        sample_bytes: How much a rank writes at most.

    Raises:
        CheckpointError: What was written is not what is read back.
    """
    sample = SampledEngine(engine, sample_bytes)
    position = SavedPosition(
        phase=phase, phase_step=0, global_step=0, tokens=0, final=False, committed=()
    )
    store.save(sample, position, state)
    [report] = store.wait()
    _require_own_part(report.folder, sample, world)


def checkpoint_bytes(engine: SavedEngine, world: World) -> int:
    """The size of a whole checkpoint over all ranks. **Ranks:** all. One collective.

    Args:
        engine: The live engine, after a step, so that it has the optimizer's state.
        world: The started world.
    """
    part = _state_of(engine, world)
    tensors = [*part.weights.values(), *part.optimizer.values()]
    return _sum_over_ranks(sum(t.numel() * t.element_size() for t in tensors), world)


def require_whole_model(engine: SavedEngine, world: World) -> None:
    """Raises unless the ranks' parts of the weights make up the model. **Ranks:** all.

    Raises:
        CheckpointError: Something would be missing from every checkpoint, or be there twice.
    """
    part = _state_of(engine, world)
    held = sum(numel for key, (_, numel) in part.fragments.items() if key.startswith("weight/"))
    found = _sum_over_ranks(held, world)
    wanted = sum(math.prod(whole_shape(p)) for p in engine.module.parameters())
    if found != wanted:
        raise CheckpointError(
            f"The ranks' parts of the {engine.settings.name} engine hold {found} weights, and the "
            f"model has {wanted}, so no checkpoint would be whole. Use another engine.zero_stage."
        )


class SampledEngine:
    """An engine of which a checkpoint takes the beginning only, up to so many bytes a rank."""

    def __init__(self, engine: SavedEngine, max_bytes: int) -> None:
        """Takes the engine and the limit."""
        self._engine = engine
        self._max_bytes = max_bytes
        self.settings = engine.settings
        self.module = engine.module

    def state_fragments(self) -> Iterator[StateFragment]:
        """Yields this rank's first fragments; the last one may be cut."""
        left_bytes = self._max_bytes
        for fragment in self._engine.state_fragments():
            tensors = [fragment.weight, *fragment.tensors().values()]
            element_bytes = sum(tensor.element_size() for tensor in tensors)
            numel = min(fragment.numel, left_bytes // element_bytes)
            if numel == 0 and fragment.numel:
                return
            left_bytes -= numel * element_bytes
            yield replace(fragment, numel=numel, weight=fragment.weight[:numel])


def _state_of(engine: SavedEngine, world: World) -> RankState:
    return RankState(engine, dp_rank=world.dp_rank, dp_world_size=world.dp_world_size)


def _sum_over_ranks(value: int, world: World) -> int:
    total = torch.tensor(value, dtype=torch.int64, device=world.device)
    return int(world.all_reduce_sum(total))


def _require_own_part(folder: Path, engine: SavedEngine, world: World) -> None:
    """Each rank reads its own files; what the others wrote, they read."""
    rank = world.dp_rank
    names = (weights_name(rank), optimizer_name(rank))
    verify(folder, only={*names, index_name(rank)})
    part = _state_of(engine, world)
    for name, tensors in zip(names, (part.weights, part.optimizer), strict=True):
        with safe_open(folder / name, framework="pt") as file:
            for key, live in tensors.items():
                read = file.get_tensor(key)
                # Bits, for two values that are not numbers never equal each other.
                if not torch.equal(_bits(read), _bits(live.detach().cpu())):
                    raise CheckpointError(
                        f"{folder}: {key} reads back other than it was written. The file system "
                        "does not keep what it is given; choose another session.root."
                    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)
