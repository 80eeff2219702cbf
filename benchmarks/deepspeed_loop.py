"""The loop that one writes by hand around DeepSpeed: forward, backward, step, nothing else."""

from __future__ import annotations

import copy
from typing import Any

import deepspeed
from loops import CLIP_NORM, LR, Loop, RandomRows, ready_batches
from one_parameter import VOCAB_SIZE_OF_BYTES, OneParameter, fused_adamw, mean_loss
from pausing import Turnstile

from phaseline.training.phases.runtime import PhaseRuntime


def configuration_of(runtime: PhaseRuntime) -> dict[str, Any]:
    """What Phaseline's own live DeepSpeed engine runs with; the loops by hand take the same."""
    engine: Any = runtime.engine.model
    assert isinstance(engine, deepspeed.DeepSpeedEngine)
    configuration: dict[str, Any] = copy.deepcopy(engine.config)
    # At stage 0 Phaseline clips by itself what DeepSpeed would clip without telling its norm.
    configuration["gradient_clipping"] = CLIP_NORM
    return configuration


def raw_deepspeed(rows: RandomRows, micro_size: int, configuration: dict[str, Any]) -> Loop:
    """What nothing around DeepSpeed can be cheaper than: no data is fetched, nothing reported.

    Args:
        rows: Where the batches come from, beforehand.
        micro_size: Rows per step.
        configuration: DeepSpeed's own; it is started in the process group that is there.
    """
    ready = ready_batches(rows, micro_size)
    model = OneParameter(VOCAB_SIZE_OF_BYTES)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=fused_adamw(model, LR), config=copy.deepcopy(configuration)
    )

    def loop(turnstile: Turnstile) -> None:
        while True:
            for batch in ready:
                loss = mean_loss(engine(batch["input_ids"]), batch["labels"])
                engine.backward(loss)
                engine.step()
                turnstile.step_ended()

    return loop
