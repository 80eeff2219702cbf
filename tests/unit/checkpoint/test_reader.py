from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from phaseline.checkpoint.manifest import verify
from phaseline.checkpoint.reader import CheckpointReader, load_engine, weights_name
from phaseline.distributed.world import World
from phaseline.errors import CheckpointError
from unit.checkpoint.live_engines import (
    at,
    build,
    require_equal,
    save,
    store_in,
    train,
)

OPTIMIZERS = ["adamw", "sgd", "lion"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_load_engine_restores_every_bit_and_goes_on_alike_when_built_with_another_seed(
    world: World, tmp_path: Path, optimizer: str
) -> None:
    engine = build(world, seed=1, optimizer=optimizer)
    train(engine, range(3))
    folder = save(store_in(tmp_path, world), engine, at(3), {"stateful": {"a": 1}}).folder
    verify(folder)

    other = build(world, seed=2, optimizer=optimizer)
    with CheckpointReader(folder) as reader:
        assert reader.state == {"stateful": {"a": 1}}
        load_engine(reader, other, dp_rank=0)
    require_equal(engine, other)
    train(engine, range(3, 6))
    train(other, range(3, 6))
    require_equal(engine, other)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_load_engine_replaces_the_state_of_an_engine_that_has_trained(
    world: World, tmp_path: Path, optimizer: str
) -> None:
    engine, other = build(world, 1, optimizer), build(world, 2, optimizer)
    train(engine, range(3))
    train(other, range(10, 15))
    folder = save(store_in(tmp_path, world), engine, at(3), {}).folder
    with CheckpointReader(folder) as reader:
        load_engine(reader, other, dp_rank=0)
    require_equal(engine, other)


def test_load_engine_restores_an_engine_that_has_not_stepped(world: World, tmp_path: Path) -> None:
    engine, other = build(world, 1), build(world, 2)
    folder = save(store_in(tmp_path, world), engine, at(0), {}).folder
    with CheckpointReader(folder) as reader:
        load_engine(reader, other, dp_rank=0)
    train(engine, range(2))
    train(other, range(2))
    require_equal(engine, other)


def test_reader_fills_any_range_and_refuses_one_that_is_not_there(
    world: World, tmp_path: Path
) -> None:
    engine = build(world, 1)
    folder = save(store_in(tmp_path, world), engine, at(0), {}).folder
    flat = engine.module.get_parameter("mix.weight").detach().flatten()
    with CheckpointReader(folder) as reader:
        out = torch.empty(7)
        reader.read("weight/mix.weight", 4, out)
        assert torch.equal(out, flat[4:11])
        with pytest.raises(CheckpointError, match=r"holds 5 of the 7 elements of weight/mix\.we"):
            reader.read("weight/mix.weight", 20, out)


def test_load_engine_is_refused_with_names_when_the_model_is_another(
    world: World, tmp_path: Path
) -> None:
    folder = save(store_in(tmp_path, world), build(world, 1), at(0), {}).folder
    wider = build(world, 1, width=6)
    with (
        CheckpointReader(folder) as reader,
        pytest.raises(CheckpointError, match=r"embed\.weight is \[7, 5\] and not \[7, 6\]"),
    ):
        load_engine(reader, wider, dp_rank=0)


def test_load_engine_is_refused_when_a_buffer_is_missing(world: World, tmp_path: Path) -> None:
    folder = save(store_in(tmp_path, world), build(world, 1), at(0), {}).folder
    engine = build(world, 1)
    engine.module.register_buffer("extra", torch.zeros(3))
    with (
        CheckpointReader(folder) as reader,
        pytest.raises(CheckpointError, match="does not hold the buffer extra"),
    ):
        load_engine(reader, engine, dp_rank=0)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.json", {"parameters": []}, "model.json does not hold .*: parameters is"),
        ("model.json", {"parameters": {"a": {"shape": ["x"]}}}, "parameters.a.shape.0 is 'x'"),
        ("model.json", {"tied": 3}, "tied is 3"),
        ("state.json", {"stateful": []}, "state.json does not hold .*: stateful is"),
        ("index.json", {"fragments": {"weight/a": [[0]]}}, "fragments.weight/a.0"),
        ("index.json", {"scalars": {"a": {"step": 3}}}, "scalars.a.step is 3"),
    ],
)
def test_file_that_was_made_to_verify_and_holds_something_else_is_named(
    world: World, tmp_path: Path, name: str, change: dict[str, Any], message: str
) -> None:
    folder = save(store_in(tmp_path, world), build(world, 1), at(0), {}).folder
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **change}))
    with pytest.raises(CheckpointError, match=message), CheckpointReader(folder):
        pass


def test_file_of_tensors_that_is_none_is_named(world: World, tmp_path: Path) -> None:
    folder = save(store_in(tmp_path, world), build(world, 1), at(0), {}).folder
    (folder / weights_name(0)).write_bytes(b"x" * 100)
    with (
        pytest.raises(CheckpointError, match=f"{weights_name(0)} cannot be read: .*Use another"),
        CheckpointReader(folder) as reader,
    ):
        reader.buffer_shapes()
