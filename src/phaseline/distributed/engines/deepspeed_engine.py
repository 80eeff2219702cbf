"""DeepSpeed's ZeRO, built by accelerate's `prepare` from numbers that we own."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import torch

from phaseline.distributed.engines import deepspeed_private as private
from phaseline.distributed.engines.accelerator import build_accelerator
from phaseline.distributed.engines.base import (
    EngineSettings,
    StateFragment,
    StepReport,
    keeps_scalars_on_device,
)
from phaseline.distributed.world import World
from phaseline.errors import EngineError

_LARGEST_BUCKET = 50_000_000
_BUCKET_UNIT = 1024


class DeepSpeedEngine:
    """ZeRO-1 or ZeRO-2: weights whole on every rank, optimizer state in parts."""

    def __init__(
        self,
        module: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: EngineSettings,
        world: World,
    ) -> None:
        """Prepares a module and its optimizer. **Ranks:** all.

        Args:
            module: The bare model, on any device; it is moved to the world's.
            optimizer: Holds the module's trainable parameters.
            settings: What the engine is built for.
            world: The started world.

        Raises:
            EngineError: The live engine does not hold the values that it was given.
        """
        private.import_deepspeed()
        from accelerate.utils import DeepSpeedPlugin

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        self.settings = settings
        self.module = module
        wanted = deepspeed_configuration(settings, module, world.dp_world_size)
        accelerator = build_accelerator(
            world,
            plugin=DeepSpeedPlugin(hf_ds_config=wanted),
            accumulation_steps=settings.accumulation_steps,
        )
        prepared, _ = accelerator.prepare(module, optimizer)
        self._engine: Any = prepared
        self.model: torch.nn.Module = prepared
        self._zero: Any = prepared.optimizer
        private.require_supported(self._zero)
        self._require_live_values(world.dp_world_size)
        self._accelerator = accelerator

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups."""
        groups: list[dict[str, Any]] = private.inner_optimizer(self._zero).param_groups
        return groups

    def begin_micro_step(self, *, is_last: bool) -> None:
        """Tells DeepSpeed where the boundary lies, so that its own counter has no say."""
        self._engine.set_gradient_accumulation_boundary(is_last)

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradient of `loss`; DeepSpeed averages it over the ranks."""
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self) -> StepReport:
        """Clips, updates and clears the gradient, or skips if it is not finite."""
        skipped_before = self._engine.skipped_steps
        steps_before = self._engine.global_steps
        self._engine.step()
        if self._engine.global_steps != steps_before + 1:
            raise EngineError(
                f"DeepSpeed counted {self._engine.global_steps - steps_before} steps where one was "
                "asked for, so its accumulation boundary is not the loop's. Please report this."
            )
        skipped = self._engine.skipped_steps != skipped_before
        norm = self._engine.get_global_grad_norm()
        grad_norm = math.inf if norm is None or skipped else float(norm)
        return StepReport(grad_norm, skipped)

    def state_fragments(self) -> Iterator[StateFragment]:
        """Yields the ranges that this rank's optimizer holds, and frozen parameters whole."""
        state = private.inner_optimizer(self._zero).state
        on_device = any(map(keeps_scalars_on_device, self.param_groups))
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        for piece in private.flat_ranges(self._zero):
            yield StateFragment(
                name=names[id(piece.parameter)],
                start=piece.start,
                numel=piece.numel,
                shape=tuple(piece.parameter.shape),
                weight=piece.owner.detach().view(-1).narrow(0, piece.offset, piece.numel),
                trainable=True,
                replicated=False,
                # Not `.get`: the dictionary must be the optimizer's own when it is written to.
                state=state[piece.owner],
                owner=piece.owner,
                offset=piece.offset,
                scalars_on_device=on_device,
            )
        for name, parameter in self.module.named_parameters():
            if not parameter.requires_grad:
                yield StateFragment(
                    name=name,
                    start=0,
                    numel=parameter.numel(),
                    shape=tuple(parameter.shape),
                    weight=parameter.detach().view(-1),
                    trainable=False,
                    replicated=True,
                )

    def refresh_weights(self) -> None:
        """Gathers the model's weights from the ranks' fp32 partitions."""
        private.refresh_weights(self._zero)

    def close(self) -> None:
        """Destroys the engine, and what accelerate remembers of it."""
        self._accelerator.free_memory(self._engine)
        self.model = self.module = torch.nn.Module()
        self._engine = self._zero = None

    def _require_live_values(self, dp_world_size: int) -> None:
        settings, engine = self.settings, self._engine
        expected = {
            "micro-batch size": (
                engine.train_micro_batch_size_per_gpu(),
                settings.micro_batch_size,
            ),
            "accumulation": (engine.gradient_accumulation_steps(), settings.accumulation_steps),
            "clipping": (engine.gradient_clipping(), settings.clip_norm or 0.0),
            "ZeRO stage": (engine.zero_optimization_stage(), settings.zero_stage),
            "world size": (engine.dp_world_size, dp_world_size),
            "bf16": (bool(engine.bfloat16_enabled()), False),
            "fp16": (bool(engine.fp16_enabled()), False),
        }
        wrong = [
            f"{name} is {live} and not {wanted}"
            for name, (live, wanted) in expected.items()
            if live != wanted
        ]
        if wrong:
            raise EngineError(
                f"The live DeepSpeed engine differs from the configuration: {'; '.join(wrong)}. "
                "Something outside the session file sets DeepSpeed's values; remove it."
            )


def deepspeed_configuration(
    settings: EngineSettings, module: torch.nn.Module, dp_world_size: int
) -> dict[str, Any]:
    """DeepSpeed's own configuration, with every number written and none left to `auto`."""
    num_elements = sum(p.numel() for p in module.parameters() if p.requires_grad)
    # DeepSpeed asserts that a bucket is a multiple of its alignment.
    bucket = -(-min(num_elements, _LARGEST_BUCKET) // _BUCKET_UNIT) * _BUCKET_UNIT
    return {
        "train_micro_batch_size_per_gpu": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.accumulation_steps,
        "train_batch_size": settings.micro_batch_size * settings.accumulation_steps * dp_world_size,
        "gradient_clipping": settings.clip_norm or 0.0,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
        "zero_optimization": {
            "stage": settings.zero_stage,
            "contiguous_gradients": True,
            "overlap_comm": False,
            "reduce_scatter": True,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "round_robin_gradients": False,
        },
    }
