"""With three ranks a sum depends on its order, which two ranks cannot show."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from distributed.ranks import run_ranks
from phaseline.checkpoint.reader import CheckpointReader, load_engine
from phaseline.checkpoint.retention import Retention
from phaseline.checkpoint.store import CheckpointStore, Origin, SavedPosition
from phaseline.distributed.engines import Engine, EngineSettings, build_engine
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.distributed.world import World

WIDTHS = (64, 96, 33, 50, 7)


def build(world: World, seed: int) -> Engine:
    torch.manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for wide, narrow in itertools.pairwise(WIDTHS):
        layers += [torch.nn.Linear(wide, narrow), torch.nn.Tanh()]
    module = torch.nn.Sequential(*layers)
    return build_engine(
        module,
        torch.optim.AdamW(module.parameters(), lr=0.01),
        EngineSettings(
            kind="plain", zero_stage=1, micro_batch_size=4, accumulation_steps=1, clip_norm=None
        ),
        world,
    )


def train(engine: Engine, world: World, steps: range) -> list[float]:
    norms = []
    for step in steps:
        generator = torch.Generator().manual_seed(1000 * step + world.dp_rank)
        rows = torch.randn(4, WIDTHS[0], generator=generator)
        engine.begin_micro_step(is_last=True)
        engine.backward(engine.model(rows).square().sum())
        norms.append(engine.step().grad_norm)
    return norms


def weights(engine: Engine) -> list[float]:
    return [value for p in engine.module.parameters() for value in p.detach().flatten().tolist()]


def resumed_and_not(folder: str) -> dict[str, Any]:
    environment = RankEnvironment.read()
    world = World(environment, Rendezvous(environment, timeout_s=60), collective_timeout_s=60)
    engine = build(world, 0)
    train(engine, world, range(3))
    store = CheckpointStore(
        Path(folder),
        world,
        Origin(session="s", attempt=1, config_fingerprint="f"),
        Retention(keep_last=2),
        fence=lambda: None,
    )
    position = SavedPosition(
        phase="p", phase_step=3, global_step=3, tokens=3, final=False, committed=()
    )
    store.save(engine, position, {"stateful": {}})
    saved = store.wait()[0].folder
    norms = train(engine, world, range(3, 6))
    resumed = build(world, 9)
    with CheckpointReader(saved) as reader:
        load_engine(reader, resumed, dp_rank=world.dp_rank)
    found = {
        "norms": [norms, train(resumed, world, range(3, 6))],
        "equal": weights(engine) == weights(resumed),
    }
    world.close()
    return found


def test_plain_engine_resumes_bit_equal_on_three_ranks(tmp_path: Path) -> None:
    for rank in run_ranks(resumed_and_not, 3, str(tmp_path)):
        assert rank["norms"][0] == pytest.approx(rank["norms"][1], abs=0.0, rel=0.0)
        assert rank["equal"]
