"""Building an `Accelerator` inside a process group that is already ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from phaseline.distributed.world import World
from phaseline.errors import WorldError

_CHANGES_NO_NUMBER = frozenset({"ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_MODE"})


def build_accelerator(
    world: World, *, plugin: Any | None, accumulation_steps: int, precision: str
) -> Accelerator:
    """Makes the accelerator of one phase; what an earlier one left in the process goes.

    Args:
        world: The started world.
        plugin: A `DeepSpeedPlugin`, or None for accelerate alone.
        accumulation_steps: Micro-steps per optimizer step.
        precision: fp32 or bf16.

    Raises:
        WorldError: accelerate sees another number of processes than there are.
    """
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()  # noqa: SLF001 - its only way to begin anew in one process
    on_cpu = world.device.type == "cpu"
    handlers: list[Any] = []
    if plugin is None:
        # Buffers stay each rank's own: sending them at every forward would cost a collective.
        # Looking for unused parameters costs a walk over the graph, but without it DDP lays its
        # buckets out anew after the first backward of a process. With three ranks or more the
        # order of a sum depends on that layout, so a resumed first step would differ.
        handlers.append(
            DistributedDataParallelKwargs(
                broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=True
            )
        )
    elif on_cpu:
        # Without it every rank believes that it is alone and trains on the whole data.
        handlers.append(InitProcessGroupKwargs(backend="gloo"))
    with _launch_variables(world, use_deepspeed=plugin is not None):
        accelerator = Accelerator(
            cpu=on_cpu and plugin is None,
            mixed_precision="bf16" if precision == "bf16" else "no",
            gradient_accumulation_steps=accumulation_steps,
            deepspeed_plugin=plugin,
            kwargs_handlers=handlers,
        )
    if accelerator.num_processes != world.dp_world_size:
        raise WorldError(
            f"accelerate sees {accelerator.num_processes} process(es) where there are "
            f"{world.dp_world_size}. Start with `phaseline launch`, which sets what it needs."
        )
    return accelerator


@contextmanager
def _launch_variables(world: World, *, use_deepspeed: bool) -> Iterator[None]:
    """Shows accelerate the variables that fit this phase, whatever the launcher was told."""
    # Those of the user's would compile the model, say, or wrap it, whatever the session file says;
    # the launcher's are held against our configuration.
    wanted: dict[str, str | None] = {
        name: None
        for name in os.environ
        if name.startswith("ACCELERATE_") and name not in _CHANGES_NO_NUMBER
    }
    wanted["ACCELERATE_USE_DEEPSPEED"] = str(use_deepspeed).lower()
    if use_deepspeed:
        wanted |= {
            "RANK": str(world.dp_rank),
            "WORLD_SIZE": str(world.dp_world_size),
            "LOCAL_RANK": str(world.environment.local_rank),
        }
    elif world.dp_world_size == 1:
        # A lone launched rank has LOCAL_RANK set, and would be wrapped in DDP for nothing.
        wanted["LOCAL_RANK"] = None
    saved = {name: os.environ.get(name) for name in wanted}
    _set_variables(wanted)
    try:
        yield
    finally:
        _set_variables(saved)


def _set_variables(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
