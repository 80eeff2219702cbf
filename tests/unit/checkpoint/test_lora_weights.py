"""Adapters merged, dropped and made anew, by any range of a parameter."""

from __future__ import annotations

import pytest
import torch

from phaseline.checkpoint import lora_weights
from phaseline.checkpoint.lora_weights import view_with_adapters, view_without_adapters
from phaseline.config.model_section import LoraSection
from phaseline.distributed.adapter_record import AdapterRecord
from unit.checkpoint.held_weights import Held, whole

RECORD = AdapterRecord(LoraSection(rank=2, alpha=3.0), {"up": False, "down": True})
ROWS, COLUMNS = 7, 5


def with_adapters() -> Held:
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "up.base_layer.weight": (ROWS, COLUMNS),
        "up.base_layer.bias": (ROWS,),
        "up.lora_A.default.weight": (2, COLUMNS),
        "up.lora_B.default.weight": (ROWS, 2),
        "down.base_layer.weight": (ROWS, COLUMNS),  # [in, out]
        "down.lora_A.default.weight": (2, ROWS),
        "down.lora_B.default.weight": (COLUMNS, 2),
        "norm.weight": (COLUMNS,),
    }
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return Held(tensors, RECORD)


def merged(held: Held, module: str) -> torch.Tensor:
    a, b = (held.tensors[f"{module}.lora_{which}.default.weight"].double() for which in "AB")
    delta = 1.5 * (b @ a)
    base = held.tensors[f"{module}.base_layer.weight"].double()
    return (base + (delta.T if RECORD.modules[module] else delta)).float()


def test_merged_view_adds_the_adapters_by_the_names_of_the_model_itself() -> None:
    held = with_adapters()
    view = view_without_adapters(held, "merge")
    assert set(view.shapes) == {"up.weight", "up.bias", "down.weight", "norm.weight"}
    assert view.adapters is None
    for module in ("up", "down"):
        torch.testing.assert_close(whole(view, f"{module}.weight"), merged(held, module))
    assert torch.equal(whole(view, "up.bias"), held.tensors["up.base_layer.bias"])


def test_dropped_view_has_the_weights_that_the_adapters_were_beside() -> None:
    held = with_adapters()
    view = view_without_adapters(held, "drop")
    assert torch.equal(whole(view, "up.weight"), held.tensors["up.base_layer.weight"])


def test_kept_adapters_and_weights_without_are_not_changed() -> None:
    held, plain = with_adapters(), Held({"up.weight": torch.ones(2, 2)})
    assert view_without_adapters(held, "keep") is held
    assert view_without_adapters(plain, "merge") is plain


@pytest.mark.parametrize("block_rows", [1, 2, 3, 256])
def test_merged_bits_do_not_depend_on_the_range_that_is_read(
    block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_weights, "_BLOCK_ROWS", block_rows)
    view = view_without_adapters(with_adapters(), "merge")
    for name in ("up.weight", "down.weight"):
        flat = whole(view, name).flatten()
        for start in range(flat.numel()):
            for size in (0, 1, 4, 6, flat.numel() - start):
                size = min(size, flat.numel() - start)
                part = torch.empty(size)
                view.read(name, start, part)
                assert torch.equal(part, flat[start : start + size])


def test_merged_weights_are_rounded_once_when_they_are_wanted_in_bf16() -> None:
    view = view_without_adapters(with_adapters(), "merge")
    expected = whole(view, "up.weight").bfloat16()
    assert torch.equal(whole(view, "up.weight", torch.bfloat16), expected)


def test_fresh_adapters_change_nothing_and_are_drawn_from_the_seed_alone() -> None:
    plain = Held({"up.weight": torch.ones(ROWS, COLUMNS), "down.weight": torch.ones(ROWS, COLUMNS)})
    view, other = (view_with_adapters(plain, RECORD, seed=seed) for seed in (1, 2))
    adapted = with_adapters().shapes
    assert view.shapes == {
        n: adapted[n] for n in adapted if not n.endswith(("bias", "norm.weight"))
    }
    assert torch.equal(whole(view, "up.base_layer.weight"), torch.ones(ROWS, COLUMNS))
    assert whole(view, "up.lora_B.default.weight").abs().max() == 0
    drawn = whole(view, "up.lora_A.default.weight")
    assert torch.equal(drawn, whole(view, "up.lora_A.default.weight"))
    assert not torch.equal(drawn, whole(other, "up.lora_A.default.weight"))
    assert 0 < drawn.abs().max() <= COLUMNS**-0.5
    part = torch.empty(3)
    view.read("up.lora_A.default.weight", 4, part)
    assert torch.equal(part, drawn.flatten()[4:7])
