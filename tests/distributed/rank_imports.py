"""What the fork server imports before it forks. Nothing here may touch a device."""

from __future__ import annotations

import os

# Asked through NVML: a process that has begun CUDA cannot fork ranks that use it.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

import accelerate  # noqa: F401
import deepspeed  # noqa: F401
import peft  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401

import phaseline.distributed.engines.deepspeed_engine
import phaseline.training_pipeline  # noqa: F401
