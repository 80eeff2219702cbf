from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from phaseline.checkpoint import weight_readers
from phaseline.checkpoint.foreign import find_weights
from phaseline.checkpoint.tensor_files import UnusableWeightsError
from phaseline.checkpoint.weight_matching import fill_engine, fill_module, match_names
from phaseline.checkpoint.weight_readers import open_weights
from phaseline.distributed.world import World
from phaseline.models.skeleton import build_without_memory
from unit.checkpoint.live_engines import Odd, at, build, everything, save, store_in, train

Tensors = dict[str, torch.Tensor]


def odd_tensors(seed: int) -> Tensors:
    """The model's state as transformers writes it: one name of tied weights."""
    state = {name: tensor.clone() for name, tensor in Odd(seed).state_dict().items()}
    del state["head.weight"]
    return state


def write(folder: Path, tensors: Tensors) -> str:
    path = folder / "weights.safetensors"
    save_file(tensors, path)
    return str(path)


def fill(path: str, world: World) -> Tensors:
    """All that an engine of other weights holds after it was filled."""
    engine = build(world, seed=9)
    with open_weights(find_weights(path)) as reader:
        fill_engine(reader, match_names(reader, engine.module), engine)
    return everything(engine)


@pytest.mark.parametrize("block", [1 << 24, 3])
def test_fill_engine_takes_every_bit_from_a_file(
    world: World, tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_readers, "BLOCK_ELEMENTS", block)
    found = fill(write(tmp_path, odd_tensors(2)), world)
    expected = Odd(2).state_dict()
    assert all(torch.equal(found[f"module/{name}"], expected[name]) for name in expected)


def test_fill_engine_takes_weights_and_buffers_but_no_state_from_a_checkpoint(
    world: World, tmp_path: Path
) -> None:
    engine = build(world, seed=2)
    train(engine, range(2))
    saved = everything(engine)
    folder = save(store_in(tmp_path, world), engine, at(2), {"stateful": {}}).folder
    found = fill(str(folder), world)
    assert found.keys() == {name for name in saved if name.startswith("module/")}
    assert all(torch.equal(found[name], saved[name]) for name in found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_fill_engine_converts_once_when_weights_have_another_type(
    world: World, tmp_path: Path, dtype: torch.dtype
) -> None:
    tensors = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in odd_tensors(2).items()
    }
    found = fill(write(tmp_path, tensors), world)
    assert torch.equal(found["module/mix.weight"], tensors["mix.weight"].float())


def drop(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__delitem__(name)


def put(name: str, tensor: torch.Tensor) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("mix.bias"), r"does not fit the model: mix\.bias is missing\."),
        (drop("embed.weight"), r"embed\.weight is missing"),
        (drop("running"), "the buffer running is missing"),
        (put("other.weight", torch.zeros(1)), r"other\.weight is too many"),
        (put("mix.weight", torch.zeros(5, 4)), r"mix\.weight is \[5, 4\] and not \[5, 5\]"),
        (put("running", torch.zeros(4)), r"the buffer running is \[4\] and not \[5\]"),
        (put("gain", torch.zeros(1, dtype=torch.int8)), "holds gain as I8"),
        (put("head.weight", torch.zeros(7, 5)), r"embed\.weight and head\.weight with different"),
    ],
)
def test_match_names_refuses_by_name_what_does_not_fit(
    tmp_path: Path, change: Callable[[Tensors], None], message: str
) -> None:
    tensors = odd_tensors(2)
    change(tensors)
    path = write(tmp_path, tensors)
    with (
        open_weights(find_weights(path)) as reader,
        pytest.raises(UnusableWeightsError, match=message),
    ):
        match_names(reader, Odd(9))


def test_match_names_shows_a_few_and_counts_the_others(tmp_path: Path) -> None:
    path = write(tmp_path, {f"x{idx}": torch.zeros(1) for idx in range(20)})
    with (
        open_weights(find_weights(path)) as reader,
        pytest.raises(UnusableWeightsError, match=r"embed\.weight is missing.* and 22 more\."),
    ):
        match_names(reader, Odd(9))


def test_match_names_takes_either_name_of_tied_weights_or_both_when_they_are_equal(
    tmp_path: Path,
) -> None:
    tensors = odd_tensors(2)
    tensors["head.weight"] = tensors["embed.weight"].clone()
    with open_weights(find_weights(write(tmp_path, tensors))) as reader:
        assert match_names(reader, Odd(9))["embed.weight"] == "embed.weight"
    del tensors["embed.weight"]
    with open_weights(find_weights(write(tmp_path, tensors))) as reader:
        assert match_names(reader, Odd(9))["embed.weight"] == "head.weight"


def test_match_names_passes_over_what_the_module_computes_itself(tmp_path: Path) -> None:
    tensors = {**odd_tensors(2), "scratch": torch.zeros(2), "old.inv_freq": torch.zeros(1)}
    module = Odd(9)
    module._keys_to_ignore_on_load_unexpected = [r"inv_freq$"]  # type: ignore[assignment]  # as transformers has it
    with open_weights(find_weights(write(tmp_path, tensors))) as reader:
        assert "scratch" not in match_names(reader, module)


def test_fill_module_gives_memory_and_values_and_leaves_ties_alone(
    world: World, tmp_path: Path
) -> None:
    engine = build(world, 1)
    train(engine, range(2))
    folder = save(store_in(tmp_path, world), engine, at(2), {"stateful": {}}).folder
    module = build_without_memory(lambda: Odd(seed=3))
    scratch = module.scratch.clone()
    with open_weights(find_weights(str(folder))) as reader:
        fill_module(reader, match_names(reader, module), module, torch.device("cpu"))
    expected = engine.module.state_dict()
    assert module.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in module.state_dict().items())
    assert module.head.weight is module.embed.weight
    assert torch.equal(module.scratch, scratch)
