from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from phaseline.config.engine_section import EngineSection


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({}, "ZeRO-1"),
        ({"kind": "plain"}, "plain"),
        ({"kind": "plain", "precision": "bf16"}, "plain bf16"),
        ({"zero_stage": 0, "precision": "bf16"}, "ZeRO-0 bf16"),
        ({"zero_stage": 2, "offload": "optimizer"}, "ZeRO-2 offload"),
        ({"zero_stage": 3, "precision": "bf16", "offload": "optimizer"}, "ZeRO-3 bf16 offload"),
    ],
)
def test_engine_label_says_what_is_not_usual(settings: dict[str, Any], label: str) -> None:
    assert EngineSection(**settings).label == label


@pytest.mark.parametrize("value", ["fp16", "float16", "Half"])
def test_engine_refuses_fp16_with_the_reason_when_it_is_called_so(value: str) -> None:
    with pytest.raises(ValidationError, match=f"is '{value}'; it must be fp32 or bf16. fp16 is"):
        EngineSection.model_validate({"precision": value})
