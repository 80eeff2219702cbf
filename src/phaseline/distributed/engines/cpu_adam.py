"""DeepSpeed's Adam for CPUs, where it was built when DeepSpeed was installed."""

from __future__ import annotations

from typing import Any

import torch

from phaseline.distributed.engines import deepspeed_private as private
from phaseline.errors import EngineError


def build_cpu_adam(
    groups: list[dict[str, Any]], *, lr: float, arguments: dict[str, Any]
) -> torch.optim.Optimizer:
    """Builds DeepSpeedCPUAdam, decoupled weight decay and all. Never compiles anything.

    Args:
        groups: Parameters with their settings, on the CPU.
        lr: Learning rate.
        arguments: Its other arguments.

    Raises:
        EngineError: This installation of DeepSpeed has no build of it.
    """
    private.import_deepspeed()
    from deepspeed.git_version_info import installed_ops

    # Without a build DeepSpeed would start a compiler for minutes, on every rank's machine, and
    # a run that is resumed elsewhere would do so again.
    if not installed_ops.get("cpu_adam", False):
        raise EngineError(
            "optimizer.name is cpu_adam, but this installation of DeepSpeed was made without it; "
            "it must be built when DeepSpeed is installed. Set optimizer.name to adamw, whose "
            "fused step serves offloading too, or install DeepSpeed again with "
            "DS_BUILD_CPU_ADAM=1 and a C++ compiler."
        )
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    found: torch.optim.Optimizer = DeepSpeedCPUAdam(groups, lr=lr, adamw_mode=True, **arguments)
    return found
