"""State written on some number of ranks goes on, bit-equal, on another, in any engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distributed.engine_cases import ENGINES, Case, engine_of, train
from distributed.ranks import run_ranks
from distributed.saved_states import save, store_at, whole_state
from phaseline.checkpoint.manifest import list_published
from phaseline.checkpoint.reader import CheckpointReader, load_engine
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.distributed.world import World

ROWS = 12
"""The global batch, whatever the number of ranks."""
STEPS, NEXT_STEPS = 3, 10
WORLDS = [(2, 1), (1, 2), (2, 3), (3, 4)]
ROTATED = list(zip(ENGINES, [*list(ENGINES)[2:], *list(ENGINES)[:2]], strict=True))
ALL = [(source, target) for source in ENGINES for target in ENGINES]


def case_of(engine: str, world_size: int) -> Case:
    return Case(engine=engine, micro=1, accumulation=ROWS // world_size)


def write(world: World, root: Path) -> dict[str, Any]:
    """Saves every engine after some steps; returns what is saved, and how each goes on."""
    found: dict[str, Any] = {}
    for name in ENGINES:
        case = case_of(name, world.dp_world_size)
        engine = engine_of(case, world)
        train(engine, case, world, range(STEPS))
        folder = save(engine, store_at(root / name, world), STEPS)
        norms = train(engine, case, world, range(STEPS, STEPS + NEXT_STEPS))
        engine.close()
        found[name] = {"state": whole_state(folder), "norms": norms}
    return found


def load(world: World, root: Path, written: Path, pairs: list[list[str]]) -> dict[str, Any]:
    """Loads what another world saved, saves it again, and goes on."""
    found: dict[str, Any] = {}
    for source, target in pairs:
        case = case_of(target, world.dp_world_size)
        engine = engine_of(case, world, seed=77)
        with CheckpointReader(list_published(written / source)[-1]) as reader:
            load_engine(reader, engine, dp_rank=world.dp_rank)
        again = save(engine, store_at(root / f"{source}-{target}", world), STEPS)
        norms = train(engine, case, world, range(STEPS, STEPS + NEXT_STEPS))
        engine.close()
        found[f"{source}>{target}"] = {"state": whole_state(again), "norms": norms}
    return found


def work(folder: str, written: str, pairs: list[list[str]]) -> dict[str, Any]:
    """Writes, or loads if there is something written."""
    environment = RankEnvironment.read()
    world = World(environment, Rendezvous(environment, timeout_s=120), collective_timeout_s=120)
    root = Path(folder)
    found = load(world, root, Path(written), pairs) if written else write(world, root)
    world.close()
    return found


class Worlds:
    """What worlds of each size wrote and loaded; each starts when it is first asked for."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._written: dict[int, tuple[Path, dict[str, Any]]] = {}

    def written_by(self, num_ranks: int) -> tuple[Path, dict[str, Any]]:
        if num_ranks not in self._written:
            folder = self._folders.mktemp(f"written-by-{num_ranks}-")
            [found, *_] = run_ranks(work, num_ranks, str(folder), "", [], timeout_s=250)
            self._written[num_ranks] = (folder, found)
        return self._written[num_ranks]

    def require_same(self, source: int, target: int, pairs: list[tuple[str, str]]) -> None:
        folder, written = self.written_by(source)
        own = self._folders.mktemp(f"loaded-by-{target}-")
        [loaded, *_] = run_ranks(work, target, str(own), str(folder), pairs, timeout_s=280)
        for engine, other in pairs:
            before, after = written[engine], loaded[f"{engine}>{other}"]
            state = before["state"]
            assert any(key.startswith("exp_avg_sq/") for key in state)
            different = [key for key in state if state[key] != after["state"][key]]
            assert different == [], (engine, other)
            assert after["state"].keys() == state.keys()
            assert after["norms"] == pytest.approx(before["norms"], rel=1e-4), (engine, other)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    return Worlds(tmp_path_factory)


# Fewer ranks and more; the night has every step, and every pair of engines at each.
@pytest.mark.parametrize(
    ("source", "target"),
    [(2, 1), pytest.param(3, 4, marks=pytest.mark.extended("seven ranks on two cores"))],
)
def test_state_is_bit_equal_on_another_number_of_ranks(
    worlds: Worlds, source: int, target: int
) -> None:
    worlds.require_same(source, target, ROTATED)


@pytest.mark.nightly
@pytest.mark.parametrize(("source", "target"), [(2, 2), *WORLDS])
def test_state_is_bit_equal_on_another_number_of_ranks_for_every_pair_of_engines(
    worlds: Worlds, source: int, target: int
) -> None:
    worlds.require_same(source, target, ALL)
