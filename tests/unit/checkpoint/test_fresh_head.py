"""Weights of one model under the head of another, by any range of a parameter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from phaseline.checkpoint.fresh_head import fresh_names, view_with_fresh_head
from phaseline.checkpoint.lora_weights import view_without_adapters
from phaseline.checkpoint.tensor_files import UnusableWeightsError
from phaseline.config.model_section import LoraSection
from phaseline.distributed.adapter_record import AdapterRecord
from unit.checkpoint.held_weights import Held, whole

ADAPTERS = AdapterRecord(LoraSection(rank=1, alpha=1.0), {"body.layer": False})


class Model(torch.nn.Module):
    """A trunk and a head, as those of transformers are."""

    base_model_prefix = "body"

    def __init__(self, *, num_labels: int = 64) -> None:
        super().__init__()
        self.body = torch.nn.ModuleDict({"layer": torch.nn.Linear(32, 32, bias=False)})
        self.score = torch.nn.Linear(32, num_labels)


def language(**more: torch.Tensor) -> Held:
    tensors = {"body.layer.weight": torch.ones(32, 32), "lm_head.weight": torch.ones(50, 32)}
    return Held({**tensors, **more})


def test_trunk_is_read_and_the_head_is_drawn_and_named() -> None:
    held = language()
    view = view_with_fresh_head(held, Model(), seed=3)
    assert view.shapes == {
        "body.layer.weight": (32, 32),
        "score.weight": (64, 32),
        "score.bias": (64,),
    }
    assert fresh_names(view) == ["score.weight", "score.bias"]
    assert fresh_names(held) == []
    assert torch.equal(whole(view, "body.layer.weight"), torch.ones(32, 32))
    assert not whole(view, "score.bias").any()
    drawn = whole(view, "score.weight")
    assert 0.018 < float(drawn.std()) < 0.022
    assert torch.equal(whole(view_with_fresh_head(held, Model(), seed=3), "score.weight"), drawn)
    other = whole(view_with_fresh_head(held, Model(), seed=4), "score.weight")
    assert not torch.equal(other, drawn)
    part = torch.empty(100)
    view.read("score.weight", 77, part)
    assert torch.equal(part, drawn.flatten()[77:177])


def test_spread_of_the_head_is_that_of_the_architecture() -> None:
    model: Any = Model()
    model.config = type("Config", (), {"initializer_range": 0.5})()
    drawn = whole(view_with_fresh_head(language(), model, seed=0), "score.weight")
    assert 0.45 < float(drawn.std()) < 0.55


@pytest.mark.parametrize("name", ["score.weight", "score.base_layer.weight"])
def test_weights_that_have_the_head_are_left_as_they_are(name: str) -> None:
    held = language(**{name: torch.ones(3, 32)})
    assert view_with_fresh_head(held, Model(), seed=0) is held


def test_model_that_names_no_trunk_is_left_alone() -> None:
    held = language()
    assert view_with_fresh_head(held, torch.nn.Linear(2, 2), seed=0) is held


def test_adapters_of_the_trunk_stay_and_may_be_merged_under_the_head() -> None:
    held = Held(
        {
            "body.layer.base_layer.weight": torch.ones(32, 32),
            "body.layer.lora_A.default.weight": torch.ones(1, 32),
            "body.layer.lora_B.default.weight": torch.ones(32, 1),
            "lm_head.weight": torch.ones(50, 32),
        },
        ADAPTERS,
    )
    view = view_with_fresh_head(held, Model(), seed=0)
    assert view.adapters is ADAPTERS
    assert "body.layer.lora_A.default.weight" in view.shapes
    merged = view_without_adapters(view, "merge")
    assert set(merged.shapes) == {"body.layer.weight", "score.weight", "score.bias"}
    assert torch.equal(whole(merged, "body.layer.weight"), torch.full((32, 32), 2.0))
    assert torch.equal(whole(merged, "score.weight"), whole(view, "score.weight"))


def test_head_that_would_stay_as_it_was_drawn_is_refused() -> None:
    model = Model()
    model.score.requires_grad_(requires_grad=False)
    with pytest.raises(
        UnusableWeightsError, match=r"has no score\.weight, .* does not train it"
    ) as e:
        view_with_fresh_head(language(), model, seed=0)
    assert e.value.fix == "Add 'score' to trainable.train."
