from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from phaseline.checkpoint.foreign import find_weights
from phaseline.checkpoint.weight_matching import fill_module, match_names
from phaseline.checkpoint.weight_readers import open_weights
from phaseline.distributed.parameter_values import replace_value
from phaseline.models.skeleton import build_without_memory, give_memory
from unit.models.special_modules import PARTS, Around, Projected, model_with

IDS = torch.arange(10).view(2, 5)


def saved(module: torch.nn.Module, folder: Path) -> Path:
    """A file of a module's state, in which ties are written once."""
    path = folder / "one.safetensors"
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    kept = module.state_dict().keys() & named.keys()
    save_file(
        {name: named[name].detach().clone(memory_format=torch.contiguous_format) for name in kept},
        path,
    )
    return path


def filled(part: str, path: Path, seed: int) -> Around:
    module = build_without_memory(lambda: model_with(part, seed))
    with open_weights(find_weights(str(path))) as reader:
        fill_module(reader, match_names(reader, module), module, torch.device("cpu"))
    return module


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("part", PARTS)
def test_skeleton_that_is_filled_computes_what_the_saved_model_does(
    part: str, tmp_path: Path
) -> None:
    # What a constructor draws besides the parameters follows from the seed.
    seed = 3
    model = model_with(part, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    path = saved(model, tmp_path)
    module = filled(part, path, seed)
    assert module.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(module(IDS), model(IDS))
    assert module.head.weight is module.embed.weight


@pytest.mark.parametrize("part", ["gru", "lstm", "rnn", "weak references", "weight norm"])
def test_skeleton_needs_no_memory_where_values_are_not_asked_for(part: str) -> None:
    module = build_without_memory(lambda: model_with(part, 0))
    assert all(parameter.is_meta for parameter in module.parameters())
    give_memory(module)
    assert not any(parameter.any() for parameter in module.parameters())
    if isinstance(module.part, torch.nn.RNNBase):
        held = [reference() for reference in module.part._flat_weight_refs if reference]
        assert list(map(id, held)) == list(map(id, module.part.parameters()))


def test_recurrent_module_learns_once_its_skeleton_is_filled(tmp_path: Path) -> None:
    path = saved(model_with("gru", 0), tmp_path)
    losses = []
    for module in (model_with("gru", 0), filled("gru", path, 1)):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
        for _ in range(3):
            loss = torch.nn.functional.cross_entropy(module(IDS).flatten(0, 1), IDS.flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert losses[:3] == losses[3:]
    assert losses[2] < losses[0]


def test_what_is_drawn_beside_the_weights_is_that_of_a_module_with_memory() -> None:
    def build() -> torch.nn.Module:
        torch.manual_seed(5)
        return Projected()

    assert torch.equal(build_without_memory(build).get_buffer("drawn"), build().get_buffer("drawn"))


def test_failure_of_the_constructor_is_the_one_that_is_raised() -> None:
    def fail() -> torch.nn.Module:
        raise LookupError("no such layer")

    with pytest.raises(LookupError, match="no such layer"):
        build_without_memory(fail)


def test_value_is_replaced_and_class_attributes_and_hooks_stay() -> None:
    class Marked(torch.nn.Parameter):
        decays = True

    parameter: Any = Marked(torch.ones(2))
    parameter.decays = False
    seen: list[str] = []
    parameter.register_hook(lambda gradient: gradient * 2)
    parameter.register_post_accumulate_grad_hook(lambda _: seen.append("late"))
    replace_value(parameter, torch.full((2,), 3.0, dtype=torch.float64))
    (parameter * 5).sum().backward()
    assert parameter.grad.tolist() == [10.0, 10.0]
    assert seen == ["late"]
    assert (type(parameter), parameter.decays) == (Marked, False)


def test_frozen_parameter_stays_frozen_when_its_value_is_replaced() -> None:
    parameter = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    replace_value(parameter, torch.zeros(2))
    assert not parameter.requires_grad
    assert parameter.tolist() == [0.0, 0.0]
