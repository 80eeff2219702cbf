from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from phaseline.distributed.engines.base import EngineSettings
from phaseline.distributed.engines.deepspeed_configuration import deepspeed_configuration


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from leaves(below, f"{path}/{key}")
    else:
        yield path, value


def configuration(clip_norm: float | None, zero_stage: int = 1) -> dict[str, Any]:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    module[0].weight.requires_grad_(False)
    settings = EngineSettings(
        kind="deepspeed",
        zero_stage=zero_stage,
        micro_batch_size=3,
        accumulation_steps=5,
        clip_norm=clip_norm,
    )
    return deepspeed_configuration(settings, module, dp_world_size=2, on_cuda=False)


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_configuration_writes_every_number_and_leaves_none_to_auto(clip_norm: float | None) -> None:
    for path, value in leaves(configuration(clip_norm)):
        assert isinstance(value, (bool, int, float)) or value == "fp32", path


def test_configuration_agrees_with_itself_and_the_settings() -> None:
    found = configuration(0.5, zero_stage=2)
    assert found["train_micro_batch_size_per_gpu"] == 3
    assert found["gradient_accumulation_steps"] == 5
    assert found["train_batch_size"] == 3 * 5 * 2
    assert found["gradient_clipping"] == 0.5
    assert found["zero_optimization"]["stage"] == 2
    assert configuration(None)["gradient_clipping"] == 0.0


def test_configuration_makes_buckets_no_larger_than_what_is_trained() -> None:
    zero = configuration(None)["zero_optimization"]
    num_trained = 4 + 4 * 2 + 2
    assert zero["reduce_bucket_size"] == zero["allgather_bucket_size"]
    assert num_trained <= zero["reduce_bucket_size"] <= 1024
