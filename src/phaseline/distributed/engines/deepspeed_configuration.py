"""DeepSpeed's own configuration, written from ours, and the live engine held against it."""

from __future__ import annotations

from typing import Any

import torch

from phaseline.distributed.engines.base import EngineSettings, whole_shape
from phaseline.errors import EngineError

_LARGEST_BUCKET = 50_000_000
_BUCKET_UNIT = 1024
_TOP_LEVEL = ("communication_data_type",)
"""Settings that may be given and do not belong to `zero_optimization`."""


def deepspeed_configuration(
    settings: EngineSettings, module: torch.nn.Module, dp_world_size: int, *, on_cuda: bool
) -> dict[str, Any]:
    """DeepSpeed's configuration, with every number written and none left to `auto`.

    Args:
        settings: What the engine is built for.
        module: The bare model, for sizes of buckets.
        dp_world_size: All ranks.
        on_cuda: Whether the ranks are on GPUs.
    """
    is_bf16 = settings.precision == "bf16"
    further = {k: v for k, v in settings.deepspeed.items() if k not in _TOP_LEVEL}
    configuration: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.accumulation_steps,
        "train_batch_size": settings.micro_batch_size * settings.accumulation_steps * dp_world_size,
        "gradient_clipping": _clipping(settings),
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "fp16": {"enabled": False},
        "bf16": {"enabled": is_bf16},
        # Ranks add up in fp32: bf16 has 8 bits, and a sum over many ranks needs more.
        "communication_data_type": settings.deepspeed.get("communication_data_type", "fp32"),
        "zero_optimization": {**_zero_section(settings, module, on_cuda=on_cuda), **further},
    }
    if is_bf16 and settings.zero_stage > 0:
        # So do micro-steps. Stage 0 has no place for it and adds them up in bf16.
        configuration["data_types"] = {"grad_accum_dtype": "fp32"}
    return configuration


def require_live_values(engine: Any, settings: EngineSettings, dp_world_size: int) -> None:
    """Compares what a live engine holds with what it was given.

    Raises:
        EngineError: Naming every value that differs.
    """
    is_bf16 = settings.precision == "bf16"
    low, accumulated = engine.get_data_types()
    adds_in = torch.bfloat16 if is_bf16 and settings.zero_stage == 0 else torch.float32
    expected = {
        "micro-batch size": (engine.train_micro_batch_size_per_gpu(), settings.micro_batch_size),
        "accumulation": (engine.gradient_accumulation_steps(), settings.accumulation_steps),
        "clipping": (engine.gradient_clipping(), _clipping(settings)),
        "ZeRO stage": (engine.zero_optimization_stage(), settings.zero_stage),
        "world size": (engine.dp_world_size, dp_world_size),
        "bf16": (bool(engine.bfloat16_enabled()), is_bf16),
        "fp16": (bool(engine.fp16_enabled()), False),
        "dtype of the model": (low, torch.bfloat16 if is_bf16 else torch.float32),
        "dtype of added gradients": (accumulated, adds_in),
        "offload": (bool(engine.zero_use_cpu_optimizer()), settings.offload == "optimizer"),
        "learning rate scheduler": (engine.lr_scheduler, None),
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


def steps_like_torch(settings: EngineSettings) -> bool:
    """Whether DeepSpeed steps the bare optimizer: it then neither measures nor looks for NaN."""
    return settings.zero_stage == 0 and settings.precision == "fp32"


def _clipping(settings: EngineSettings) -> float:
    """What DeepSpeed clips to; 0: not at all, where the engine clips what it has measured."""
    return 0.0 if steps_like_torch(settings) else settings.clip_norm or 0.0


def _zero_section(
    settings: EngineSettings, module: torch.nn.Module, *, on_cuda: bool
) -> dict[str, Any]:
    shapes = [whole_shape(p) for p in module.parameters() if p.requires_grad]
    num_elements = sum(torch.Size(shape).numel() for shape in shapes)
    # DeepSpeed asserts that a bucket is a multiple of its alignment.
    bucket = -(-min(num_elements, _LARGEST_BUCKET) // _BUCKET_UNIT) * _BUCKET_UNIT
    section: dict[str, Any] = {
        "stage": settings.zero_stage,
        "contiguous_gradients": True,
        "overlap_comm": False,
        "reduce_scatter": True,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "round_robin_gradients": False,
    }
    if settings.zero_stage == 3:
        section |= {
            "sub_group_size": 1_000_000_000,
            "stage3_prefetch_bucket_size": bucket,
            "stage3_param_persistence_threshold": 100_000,
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            "stage3_gather_16bit_weights_on_model_save": False,
            # It would replace torch's linear in this process, for engines that come later too.
            "memory_efficient_linear": False,
        }
    if settings.offload == "optimizer":
        section["offload_optimizer"] = {"device": "cpu", "pin_memory": on_cuda}
    return section
