"""Models with modules that hold on to their parameters, in engines on real ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distributed.engine_cases import Case, optimizer_of, pieces, settings_of
from distributed.ranks import run_ranks
from distributed.saved_states import save, store_at
from phaseline.checkpoint.foreign import find_weights
from phaseline.checkpoint.reader import CheckpointReader, load_engine
from phaseline.checkpoint.weight_matching import fill_engine, fill_module, match_names
from phaseline.checkpoint.weight_readers import open_weights
from phaseline.distributed.engines import Engine, build_engine
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.distributed.world import World
from phaseline.models.skeleton import build_without_memory
from unit.models.special_modules import model_with

pytestmark = pytest.mark.extended("each kind of module, on one rank and on two, in each engine")

ENGINES = ("plain", "zero3")
# Every kind that a unit test fills; here those that ZeRO-3 meets in another way.
PARTS = {
    1: ("gru",),
    2: ("gru", "weight norm by hooks", "spectral norm"),
}
EVERY = [(ranks, part) for ranks, parts in PARTS.items() for part in parts]
IDS = torch.arange(40).remainder(11).view(4, 10)


def engine_of(name: str, part: str, world: World, *, seed: int, skeleton: bool) -> Engine:
    def build() -> torch.nn.Module:
        return model_with(part, seed).train()

    module = build_without_memory(build) if skeleton else build()
    case = Case(engine=name, micro=1, accumulation=1, settings={"unused_parameters": False})
    return build_engine(module, optimizer_of(module), settings_of(case), world)


def train(engine: Engine, world: World, steps: range) -> list[float]:
    """Norms of the gradients; every rank has the same row."""
    norms = []
    for step in steps:
        row = IDS[step % 2 : step % 2 + 1]
        engine.begin_micro_step(is_last=True)
        logits = engine.model(row[:, :-1])
        engine.backward(torch.nn.functional.cross_entropy(logits.flatten(0, 1), row[0, 1:]))
        norms.append(engine.step().grad_norm)
    return norms


def all_parts(folder: str) -> dict[str, Any]:
    environment = RankEnvironment.read()
    world = World(environment, Rendezvous(environment, timeout_s=120), collective_timeout_s=60)
    found = {
        f"{part}, {name}": trained_and_filled(part, name, world, Path(folder) / f"{part}-{name}")
        for part in PARTS[world.dp_world_size]
        for name in ENGINES
    }
    world.close()
    return found


def trained_and_filled(part: str, name: str, world: World, folder: Path) -> dict[str, Any]:
    """Trains, saves and goes on; then the same from what was saved, in models without values."""
    is_skeleton = name == "zero3"
    engine = engine_of(name, part, world, seed=0, skeleton=False)
    found: dict[str, Any] = {"norms": train(engine, world, range(3))}
    saved = save(engine, store_at(folder, world), 3)
    found["after"], found["weights"] = train(engine, world, range(3, 5)), pieces(engine)
    engine.close()

    resumed = engine_of(name, part, world, seed=0, skeleton=is_skeleton)
    with CheckpointReader(saved) as reader:
        load_engine(reader, resumed, dp_rank=world.dp_rank)
    found["resumed"], found["resumed weights"] = train(resumed, world, range(3, 5)), pieces(resumed)
    resumed.close()

    started = engine_of(name, part, world, seed=0, skeleton=is_skeleton)
    with open_weights(find_weights(str(saved))) as weights:
        fill_engine(weights, match_names(weights, started.module), started)
    found["started"] = train(started, world, range(3, 4))
    started.close()

    module = build_without_memory(lambda: model_with(part, 0))
    with open_weights(find_weights(str(saved))) as weights:
        fill_module(weights, match_names(weights, module), module, torch.device("cpu"))
    with torch.no_grad():
        found["said"] = module(IDS).flatten().tolist()
    return found


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    return {
        ranks: run_ranks(all_parts, ranks, str(tmp_path_factory.mktemp(f"ranks-{ranks}")))
        for ranks in PARTS
    }


@pytest.mark.parametrize(("ranks", "part"), EVERY)
def test_module_trains_alike_in_every_engine(
    facts: dict[int, list[dict[str, Any]]], ranks: int, part: str
) -> None:
    plain, zero3 = (facts[ranks][0][f"{part}, {name}"] for name in ENGINES)
    assert zero3["norms"] == pytest.approx(plain["norms"], rel=1e-5)
    assert zero3["said"] == pytest.approx(plain["said"], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(("ranks", "part"), EVERY)
def test_module_goes_on_bit_for_bit_from_what_was_saved(
    facts: dict[int, list[dict[str, Any]]], ranks: int, part: str, name: str
) -> None:
    for rank in facts[ranks]:
        found = rank[f"{part}, {name}"]
        assert found["resumed"] == found["after"]
        assert found["resumed weights"] == found["weights"]
        assert found["started"] == found["after"][:1]
