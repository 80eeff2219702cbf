from __future__ import annotations

from typing import Any

import pytest
import torch

from phaseline.distributed.engines.base import EngineSettings, StateFragment


def fragment(owner: torch.Tensor, state: dict[str, Any], **changes: Any) -> StateFragment:
    values: dict[str, Any] = {
        "name": "weight",
        "start": 4,
        "numel": 3,
        "shape": (4, 3),
        "weight": owner.view(-1)[2:5],
        "trainable": True,
        "replicated": False,
        "state": state,
        "owner": owner,
        "offset": 2,
        **changes,
    }
    return StateFragment(**values)


def test_tensors_are_views_of_the_fragments_own_range() -> None:
    owner, average = torch.zeros(6), torch.arange(6.0)
    views = fragment(owner, {"exp_avg": average, "step": torch.tensor(3.0)}).tensors()
    assert list(views) == ["exp_avg"]
    assert views["exp_avg"].tolist() == [2, 3, 4]
    views["exp_avg"].fill_(-1)
    assert average.tolist() == [0, 1, -1, -1, -1, 5]


def test_scalars_are_the_per_tensor_numbers_whatever_holds_them() -> None:
    state = {"exp_avg": torch.zeros(6), "step": torch.tensor(3.0), "mu": 0.5, "count": 2}
    piece = fragment(torch.zeros(6), state)
    assert piece.scalars() == {"step": 3.0, "mu": 0.5, "count": 2}
    assert [piece.scalar_is_tensor(key) for key in ("step", "mu", "count")] == [True, False, False]


def test_scalars_and_tensors_differ_when_the_parameter_has_one_element() -> None:
    state = {"exp_avg": torch.ones(1), "step": torch.tensor(3.0)}
    piece = fragment(
        torch.zeros(1), state, start=0, numel=1, shape=(1,), weight=torch.zeros(1), offset=0
    )
    assert list(piece.tensors()) == ["exp_avg"]
    assert piece.scalars() == {"step": 3.0}


def test_create_state_makes_zeros_laid_out_like_the_owner_where_they_are_missing() -> None:
    owner, average = torch.ones(2, 3, requires_grad=True), torch.ones(2, 3)
    state: dict[str, Any] = {"exp_avg": average}
    fragment(owner, state).create_state(
        {"exp_avg": torch.float32, "exp_avg_sq": torch.float64, "sign": torch.bfloat16}
    )
    assert state["exp_avg"] is average
    assert state["exp_avg_sq"].shape == owner.shape
    assert state["exp_avg_sq"].dtype == torch.float64
    assert state["sign"].dtype == torch.bfloat16
    assert not any(state["exp_avg_sq"].flatten())
    assert not state["exp_avg_sq"].requires_grad


def test_set_scalar_keeps_the_form_that_the_optimizer_uses() -> None:
    state: dict[str, Any] = {}
    piece = fragment(torch.zeros(6), state)
    piece.set_scalar("step", 7, as_tensor=True)
    piece.set_scalar("count", 7, as_tensor=False)
    assert state["step"].dtype == torch.float32
    assert state["step"].dim() == 0
    assert piece.scalars() == {"step": 7.0, "count": 7}


@pytest.mark.parametrize(
    ("kind", "stage", "name"), [("plain", 1, "plain"), ("deepspeed", 2, "zero2")]
)
def test_settings_name_the_engine(kind: str, stage: int, name: str) -> None:
    settings = EngineSettings(
        kind=kind, zero_stage=stage, micro_batch_size=1, accumulation_steps=1, clip_norm=None
    )
    assert settings.name == name
