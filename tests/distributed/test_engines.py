"""Engines and checkpoints on two real ranks; all tests share the ranks of one start."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from distributed.engine_cases import ENGINES, Case, engine_of, train
from distributed.ranks import run_ranks
from distributed.saved_states import save, store_at, whole_state
from phaseline.checkpoint.manifest import list_published
from phaseline.checkpoint.reader import CheckpointReader, load_engine
from phaseline.checkpoint.trial import checkpoint_bytes, require_whole_model, try_checkpoint
from phaseline.distributed.engines import Engine
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.distributed.world import World
from phaseline.errors import PhaselineError
from phaseline.resilience.save_timer import SaveTimer
from phaseline.resilience.stop import StopVote
from phaseline.resilience.stop_flag import StopFlag

STEPS = 3
CASES = {name: Case(engine=name) for name in ENGINES} | {
    f"{name}-bf16": Case(engine=name, precision="bf16") for name in ENGINES
}
# Every engine into itself, and a way through all of them.
PAIRS = [(key, key) for key in CASES] + [
    ("plain", "zero3"),
    ("zero3", "zero0"),
    ("zero0", "zero2"),
    ("zero2", "zero1"),
    ("zero1", "plain"),
    ("plain-bf16", "zero1-bf16"),
    ("zero1-bf16", "zero0-bf16"),
    ("zero0-bf16", "zero3-bf16"),
    ("zero3-bf16", "zero2"),
    ("zero2", "zero0-bf16"),
]


def failure_of(function: Any) -> str:
    try:
        function()
    except PhaselineError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def stop_steps(world: World) -> int:
    """The step edge at which a rank stops when only rank 1 was asked to, at step 5."""
    flag = StopFlag()
    vote = StopVote(flag, world)
    for step in range(1, 5000):
        time.sleep(0.002)
        if step == 5 and world.dp_rank == 1:
            flag.set(signal.SIGUSR1)
        if vote.agreed():
            vote.close()
            return step
    return -1


def save_steps(world: World) -> list[int]:
    """The step edges of the first two saves: by rank 0's clock, whatever another one's says.

    A clock tells the number of the step, so that a save is due by rank 0 a hundred
    steps after the one before, however long a step takes.
    """
    step = 0
    timer = SaveTimer(100.0 if world.is_main else 5.0, clock=lambda: float(step))
    vote = StopVote(StopFlag(), world, timer)
    found: list[int] = []
    while len(found) < 2 and step < 100_000:
        step += 1
        time.sleep(0.002)
        vote.agreed()
        if vote.save_is_due():
            vote.note_saved()
            found.append(step)
    vote.close()
    return found


def start(case: Case, world: World, seed: int) -> Engine:
    """An engine whose ranks have different buffers."""
    engine = engine_of(case, world, seed)
    engine.module.get_buffer("seen")[1] += world.dp_rank
    return engine


def resume(folder: Path, case: Case, world: World, root: Path) -> dict[str, Any]:
    """What another engine holds after it loaded a checkpoint, and how it goes on."""
    engine = start(case, world, seed=77)
    with CheckpointReader(folder) as reader:
        load_engine(reader, engine, dp_rank=world.dp_rank)
    found: dict[str, Any] = {"buffer": engine.module.get_buffer("seen").tolist()}
    found["state"] = whole_state(save(engine, store_at(root, world), STEPS))
    found["norms"] = train(engine, case, world, range(STEPS, STEPS + 2))
    engine.close()
    return found


def everything(folder: str) -> dict[str, Any]:
    environment = RankEnvironment.read()
    world = World(environment, Rendezvous(environment, timeout_s=120), collective_timeout_s=60)
    root = Path(folder)
    found: dict[str, Any] = {"state": {}, "next": {}, "resumed": {}, "trial": {}}
    for key, case in CASES.items():
        engine = start(case, world, seed=0)
        train(engine, case, world, range(STEPS))
        found["state"][key] = whole_state(save(engine, store_at(root / key, world), STEPS))
        found["next"][key] = train(engine, case, world, range(STEPS, STEPS + 2))
        found["trial"][key] = tried(engine, world, root / f"trial-{key}")
        engine.close()
    for source, target in PAIRS:
        saved = list_published(root / source)[-1]
        pair = f"{source}>{target}"
        found["resumed"][pair] = resume(saved, CASES[target], world, root / pair)
    for name in ("sgd", "lion"):
        case = Case(engine="zero1", optimizer=name)
        engine = start(case, world, seed=0)
        train(engine, case, world, range(STEPS))
        saved = save(engine, store_at(root / name, world), STEPS)
        engine.close()
        case = Case(engine="zero3", optimizer=name)
        found[name] = [whole_state(saved), resume(saved, case, world, root / f"{name}3")["state"]]
    found |= failures(world, root)
    found["stop"] = stop_steps(world)
    found["saves"] = save_steps(world)
    found["gathered"] = world.gather_objects({"rank": world.dp_rank, "text": "x" * world.dp_rank})
    found["disagree"] = failure_of(lambda: world.require_agreement("the rank", world.dp_rank))
    world.close()
    return found


def tried(engine: Engine, world: World, folder: Path) -> list[int]:
    """Trials of a checkpoint, whole and cut; what one is said to take, and what it took."""
    require_whole_model(engine, world)
    try_checkpoint(store_at(folder / "whole", world), engine, world, phase="p", state={})
    cut = store_at(folder / "cut", world)
    try_checkpoint(cut, engine, world, phase="p", state={}, sample_bytes=100)
    said = checkpoint_bytes(engine, world)
    world.rendezvous.barrier("tried whole and cut")
    files = [
        sum(path.stat().st_size for path in (folder / kind).rglob("rank-*.safetensors"))
        for kind in ("whole", "cut")
    ]
    return [said, *files]


def failures(world: World, root: Path) -> dict[str, Any]:
    """What every rank is told when one of them cannot save."""
    engine = engine_of(CASES["zero1"], world)
    train(engine, CASES["zero1"], world, range(1))
    store = store_at(root / "failing", world)
    blocked = root / "failing" / ".aside-step-00000001.a0001"
    if world.dp_rank == 1:
        # A folder where this rank's file belongs: it cannot be written.
        (blocked / "rank-00001.weights.safetensors").mkdir(parents=True)
    world.rendezvous.barrier("blocked")
    write = failure_of(lambda: save(engine, store, 1))
    world.rendezvous.barrier("tried")
    if world.is_main:
        shutil.rmtree(blocked, ignore_errors=True)
    if world.dp_rank == 1:
        next(engine.state_fragments()).weight[0] = float("nan")
    poisoned = failure_of(lambda: save(engine, store, 2))
    published = [path.name for path in list_published(root / "failing")]
    return {"write": write, "poisoned": poisoned, "published": published}


# Half a minute: ten engines train, save, and resume in twenty pairs.
@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_ranks(everything, 2, str(tmp_path_factory.mktemp("engines")), timeout_s=400)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_state_is_bit_equal_when_it_is_loaded_into_another_engine(
    facts: list[dict[str, Any]], source: str, target: str
) -> None:
    saved = facts[0]["state"][source]
    loaded = facts[0]["resumed"][f"{source}>{target}"]["state"]
    assert saved.keys() == loaded.keys()
    different = [key for key in saved if saved[key] != loaded[key]]
    # A frozen weight has the dtype of the model, which may have fewer bits.
    rounds = "bf16" in target and target != "plain-bf16"
    assert different == (["weight/frozen"] if rounds and not is_rounded(source) else [])
    assert any(key.startswith("exp_avg_sq/") for key in saved)


def is_rounded(key: str) -> bool:
    return "bf16" in key and key != "plain-bf16"


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_buffers_are_each_ranks_own_when_they_are_loaded(
    facts: list[dict[str, Any]], source: str, target: str
) -> None:
    found = [rank["resumed"][f"{source}>{target}"]["buffer"] for rank in facts]
    assert found == [[0.0, 2.0], [0.0, 3.0]]


@pytest.mark.parametrize("key", CASES)
def test_trial_of_a_checkpoint_knows_the_size_of_a_whole_one_and_writes_a_part(
    facts: list[dict[str, Any]], key: str
) -> None:
    said, whole, cut = facts[0]["trial"][key]
    assert facts[1]["trial"][key] == [said, whole, cut]
    # What is besides are the headers of four files.
    assert 0 < whole - said < 4 * 4096
    assert cut < whole


@pytest.mark.parametrize("key", CASES)
def test_training_goes_on_bit_equal_when_the_same_engine_resumes(
    facts: list[dict[str, Any]], key: str
) -> None:
    for rank in facts:
        assert rank["resumed"][f"{key}>{key}"]["norms"] == rank["next"][key]


@pytest.mark.parametrize("name", ["sgd", "lion"])
def test_state_of_other_optimizers_is_carried_over(facts: list[dict[str, Any]], name: str) -> None:
    saved, loaded = facts[0][name]
    assert saved == loaded
    key = {"sgd": "momentum_buffer", "lion": "exp_avg"}[name]
    assert any(entry.startswith(f"{key}/") for entry in saved)


def test_every_rank_learns_when_one_cannot_write(facts: list[dict[str, Any]]) -> None:
    for rank in facts:
        assert rank["write"].startswith("CheckpointError: No checkpoint was published at")
        assert "rank 1: " in rank["write"]


def test_weights_that_are_not_finite_are_never_published(facts: list[dict[str, Any]]) -> None:
    for rank in facts:
        assert rank["poisoned"].startswith("AnomalyError: No checkpoint was published at")
        assert "not finite" in rank["poisoned"]
        assert rank["published"] == []


def test_all_ranks_stop_at_the_same_step_when_one_was_asked_to(
    facts: list[dict[str, Any]],
) -> None:
    steps = {rank["stop"] for rank in facts}
    assert len(steps) == 1
    assert steps.pop() >= 5


def test_all_ranks_save_at_the_same_steps_by_the_main_ranks_clock(
    facts: list[dict[str, Any]],
) -> None:
    (first, second), other = (rank["saves"] for rank in facts)
    assert other == [first, second]
    assert first >= 100
    assert second - first >= 100


def test_gather_objects_returns_every_value_by_rank(facts: list[dict[str, Any]]) -> None:
    expected = [{"rank": 0, "text": ""}, {"rank": 1, "text": "x"}]
    assert [rank["gathered"] for rank in facts] == [expected, expected]


def test_require_agreement_names_each_ranks_value_on_every_rank(
    facts: list[dict[str, Any]],
) -> None:
    for rank in facts:
        assert "disagree on the rank: rank 0: 0; rank 1: 1" in rank["disagree"]
