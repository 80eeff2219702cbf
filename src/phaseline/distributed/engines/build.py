"""Choosing the engine that the configuration names."""

from __future__ import annotations

import torch

from phaseline.distributed.engines.base import Engine, EngineSettings
from phaseline.distributed.world import World


def build_engine(
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: EngineSettings,
    world: World,
) -> Engine:
    """Builds the engine of one phase. **Ranks:** all.

    Each kind is imported only when it is used: DeepSpeed's import costs seconds.
    """
    if settings.kind == "deepspeed":
        from phaseline.distributed.engines.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(module, optimizer, settings, world)
    from phaseline.distributed.engines.plain import PlainEngine

    return PlainEngine(module, optimizer, settings, world)
