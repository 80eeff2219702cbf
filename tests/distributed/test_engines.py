"""Engines and checkpoints on two real ranks; all tests share the ranks of one start."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from distributed.ranks import run_ranks
from phaseline.checkpoint.manifest import list_published
from phaseline.checkpoint.reader import CheckpointReader, load_engine
from phaseline.checkpoint.store import CheckpointStore, Retention, SavedPosition
from phaseline.config.sections import OptimizerSection
from phaseline.distributed.engines import Engine, EngineSettings, build_engine
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.distributed.world import World
from phaseline.errors import PhaselineError
from phaseline.models.optimizers import build_optimizer
from phaseline.resilience.stop import StopVote
from phaseline.resilience.stop_flag import StopFlag

ENGINES = {"plain": ("plain", 1), "zero1": ("deepspeed", 1), "zero2": ("deepspeed", 2)}
MICRO, ACCUMULATION, WIDTH, LENGTH = 2, 2, 6, 5
STEPS = 3
CLIP = 0.05


class Model(torch.nn.Module):
    """Tied weights, a frozen parameter, one of a single element, and a buffer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = torch.nn.Embedding(11, WIDTH)
        self.body = torch.nn.Linear(WIDTH, WIDTH)
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.frozen = torch.nn.Parameter(torch.randn(7), requires_grad=False)
        self.head = torch.nn.Linear(WIDTH, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("seen", torch.tensor([float(seed), 2.0]))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(torch.relu(self.body(self.embed(ids)))) * self.scale
        logits: torch.Tensor = self.head(hidden)
        return logits


def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A global batch of ragged rows, one of which carries no loss at all."""
    generator = torch.Generator().manual_seed(100 + step)
    rows = MICRO * ACCUMULATION * 2
    ids = torch.randint(0, 11, (rows, LENGTH + 1), generator=generator)
    targets = ids[:, 1:].clone()
    for row in range(rows):
        targets[row, row % (LENGTH + 1) :] = -100
    return ids[:, :-1], targets


def loss_sum(model: torch.nn.Module, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = model(ids).flatten(0, 1)
    return torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum")


def optimizer_of(model: torch.nn.Module, name: str = "adamw") -> torch.optim.Optimizer:
    arguments = {"momentum": 0.9} if name == "sgd" else {}
    section = OptimizerSection(name=name, lr=0.02, weight_decay=0.1, arguments=arguments)
    return build_optimizer(model, section, device=torch.device("cpu"))


def reference() -> tuple[list[float], dict[str, list[float]]]:
    """Norms and weights of a single process that sees the whole batch at once."""
    model = Model(0)
    optimizer = optimizer_of(model)
    norms = []
    for step in range(STEPS):
        ids, targets = batch_of(step)
        (loss_sum(model, ids, targets) / int((targets != -100).sum())).backward()  # type: ignore[no-untyped-call]
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        optimizer.step()
        optimizer.zero_grad()
    return norms, {name: p.detach().flatten().tolist() for name, p in model.named_parameters()}


def engine_of(name: str, world: World, seed: int, optimizer: str = "adamw") -> Engine:
    kind, stage = ENGINES[name]
    model = Model(seed)
    settings = EngineSettings(
        kind=kind,
        zero_stage=stage,
        micro_batch_size=MICRO,
        accumulation_steps=ACCUMULATION,
        clip_norm=CLIP,
    )
    return build_engine(model, optimizer_of(model, optimizer), settings, world)


def train(engine: Engine, world: World, steps: Iterator[int] | range) -> list[float]:
    norms = []
    for step in steps:
        ids, targets = batch_of(step)
        scale = world.dp_world_size / int((targets != -100).sum())
        for micro_step in range(ACCUMULATION):
            first = (micro_step * world.dp_world_size + world.dp_rank) * MICRO
            rows = slice(first, first + MICRO)
            engine.begin_micro_step(is_last=micro_step == ACCUMULATION - 1)
            engine.backward(loss_sum(engine.model, ids[rows], targets[rows]) * scale)
        norms.append(engine.step().grad_norm)
    return norms


def store_at(folder: Path, world: World) -> CheckpointStore:
    return CheckpointStore(
        folder,
        world,
        attempt=1,
        config_fingerprint="f",
        retention=Retention(keep_last=9),
        fence=lambda: None,
        timeout_s=20,
    )


def save(engine: Engine, store: CheckpointStore, step: int) -> Path:
    position = SavedPosition(
        phase="p", phase_step=step, global_step=step, tokens=step, final=False, committed=()
    )
    return store.save(engine, position, {"stateful": {}}).folder


def whole_state(folder: Path) -> dict[str, list[float]]:
    """Every tensor of a checkpoint put together, and its numbers; as bits, in a way JSON keeps."""
    found: dict[str, list[float]] = {}
    with CheckpointReader(folder) as reader:
        for name, record in reader.parameters.items():
            numel = int(torch.tensor(record["shape"]).prod())
            for key in ["weight", *reader.state_keys(name)]:
                flat = torch.empty(numel, dtype=reader.dtype(f"{key}/{name}"))
                reader.read(f"{key}/{name}", 0, flat)
                found[f"{key}/{name}"] = flat.double().tolist()
            found[f"numbers/{name}"] = [value for value, _ in reader.scalars(name).values()]
        module = Model(5)
        reader.read_buffers(module, 0)
        found["buffer"] = module.state_dict()["seen"].tolist()
    return found


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


def everything(folder: str) -> dict[str, Any]:
    environment = RankEnvironment.read()
    world = World(environment, Rendezvous(environment, timeout_s=60), collective_timeout_s=60)
    root = Path(folder)
    found: dict[str, Any] = {"norms": {}, "state": {}, "next": {}}
    for name in ENGINES:
        engine = engine_of(name, world, seed=0)
        found["norms"][name] = train(engine, world, range(STEPS))
        saved = save(engine, store_at(root / name, world), STEPS)
        found["state"][name] = whole_state(saved)
        found["next"][name] = train(engine, world, range(STEPS, STEPS + 2))
        engine.close()
    found["elsewhere"], found["resumed"] = {}, {}
    for source, target in [
        ("plain", "zero1"),
        ("zero1", "zero2"),
        ("zero2", "plain"),
        ("zero1", "zero1"),
        ("plain", "plain"),
        ("zero2", "zero2"),
    ]:
        engine = engine_of(target, world, seed=77)
        with CheckpointReader(list_published(root / source)[-1]) as reader:
            load_engine(reader, engine, dp_rank=world.dp_rank)
        key = f"{source}>{target}"
        found["elsewhere"][key] = whole_state(save(engine, store_at(root / key, world), STEPS))
        found["resumed"][key] = train(engine, world, range(STEPS, STEPS + 2))
        engine.close()
    for name in ("sgd", "lion"):
        engine = engine_of("zero1", world, seed=0, optimizer=name)
        train(engine, world, range(STEPS))
        saved = save(engine, store_at(root / name, world), STEPS)
        other = engine_of("zero2", world, seed=5, optimizer=name)
        with CheckpointReader(saved) as reader:
            load_engine(reader, other, dp_rank=world.dp_rank)
        found[name] = [
            whole_state(saved),
            whole_state(save(other, store_at(root / f"{name}2", world), STEPS)),
        ]
    found |= failures(world, root)
    found["stop"] = stop_steps(world)
    found["gathered"] = world.gather_objects({"rank": world.dp_rank, "text": "x" * world.dp_rank})
    found["disagree"] = failure_of(lambda: world.require_agreement("the rank", world.dp_rank))
    world.close()
    return found


def failures(world: World, root: Path) -> dict[str, Any]:
    """What every rank is told when one of them cannot save."""
    engine = engine_of("zero1", world, seed=0)
    train(engine, world, range(1))
    store = store_at(root / "failing", world)
    blocked = root / "failing" / ".aside-step-00000001.a0001"
    if world.dp_rank == 1:
        # A folder where this rank's file belongs: it cannot be written.
        (blocked / "rank-00001.safetensors").mkdir(parents=True)
    world.rendezvous.barrier("blocked")
    write = failure_of(lambda: save(engine, store, 1))
    world.rendezvous.barrier("tried")
    if world.is_main:
        shutil.rmtree(blocked)
    if world.dp_rank == 1:
        next(engine.state_fragments()).weight[0] = float("nan")
    poisoned = failure_of(lambda: save(engine, store, 2))
    published = [path.name for path in list_published(root / "failing")]
    return {"write": write, "poisoned": poisoned, "published": published}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_ranks(everything, 2, str(tmp_path_factory.mktemp("engines")))


@pytest.mark.parametrize("engine", ENGINES)
def test_engine_equals_a_single_process_on_the_whole_batch(
    facts: list[dict[str, Any]], engine: str
) -> None:
    norms, weights = reference()
    assert max(norms) > CLIP
    for rank in facts:
        assert rank["norms"][engine] == pytest.approx(norms, rel=1e-5)
        for name, values in weights.items():
            assert rank["state"][engine][f"weight/{name}"] == pytest.approx(
                values, rel=1e-5, abs=1e-6
            )


@pytest.mark.parametrize(
    "pair",
    ["plain>zero1", "zero1>zero2", "zero2>plain", "zero1>zero1", "plain>plain", "zero2>zero2"],
)
def test_state_is_bit_equal_when_it_is_loaded_into_another_engine(
    facts: list[dict[str, Any]], pair: str
) -> None:
    source = pair.partition(">")[0]
    saved, loaded = facts[0]["state"][source], facts[0]["elsewhere"][pair]
    assert saved.keys() == loaded.keys()
    assert [key for key in saved if saved[key] != loaded[key]] == []
    assert any(key.startswith("exp_avg_sq/") for key in saved)
    assert saved["buffer"] == [0.0, 2.0]


@pytest.mark.parametrize("engine", ENGINES)
def test_training_goes_on_bit_equal_when_the_same_engine_resumes(
    facts: list[dict[str, Any]], engine: str
) -> None:
    for rank in facts:
        assert rank["resumed"][f"{engine}>{engine}"] == rank["next"][engine]


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


def test_gather_objects_returns_every_value_by_rank(facts: list[dict[str, Any]]) -> None:
    expected = [{"rank": 0, "text": ""}, {"rank": 1, "text": "x"}]
    assert [rank["gathered"] for rank in facts] == [expected, expected]


def test_require_agreement_names_each_ranks_value_on_every_rank(
    facts: list[dict[str, Any]],
) -> None:
    for rank in facts:
        assert "disagree on the rank: rank 0: 0; rank 1: 1" in rank["disagree"]
