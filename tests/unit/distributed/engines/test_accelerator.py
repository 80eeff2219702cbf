from __future__ import annotations

import os

import pytest
from accelerate.utils import DistributedType, DynamoBackend

from phaseline.distributed.engines.accelerator import build_accelerator
from phaseline.distributed.world import World


def test_variables_of_the_user_neither_compile_nor_wrap_the_model(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {
        "ACCELERATE_DYNAMO_BACKEND": "inductor",
        "ACCELERATE_USE_FSDP": "true",
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "3",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = build_accelerator(world, plugin=None, accumulation_steps=1, precision="fp32")
    assert found.state.dynamo_plugin.backend == DynamoBackend.NO
    assert found.distributed_type is DistributedType.NO
    assert (found.mixed_precision, found.gradient_accumulation_steps) == ("no", 1)
    assert {name: os.environ[name] for name in variables} == variables
