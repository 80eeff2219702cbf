"""A phase of preferences on two ranks and in several engines: the same training; one start."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from distributed.ranks import run_ranks
from phaseline.checkpoint.manifest import list_kept
from phaseline.checkpoint.weight_readers import CheckpointWeights
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.distributed.world import World
from phaseline.session.layout import SessionLayout
from phaseline.session.metrics_view import read_metrics
from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.runtime import PhaseRuntime
from unit.training.pipeline.preference_session import write_answers

pytestmark = pytest.mark.extended("eight sessions of preferences, one for each engine")

CONFIG = """
session: {name: preferences, seed: 5}
model: {pretrained: base}
phases:
  - name: prefer
    objective: dpo
    duration: 4 steps
    data: {source: files, arguments: {paths: ["answers.jsonl"], shape: preferences},
           held_out_frac: 0.2, sequence_length: 64}
    batch: {global_size: 8, micro_size: 2}
    optimizer: {lr: 4e-3}
    schedule: {name: constant}
    evaluate: {every: 2 steps, at_start: true, micro_size: 3}
    callbacks: ["rank_functions:StopAt"]
tracking: {console: "off", wandb: {mode: disabled}}
"""
DEEPSPEED = "phases[0].engine.kind=deepspeed"
MEMORY = "phases[0].objective_arguments={reference: memory}"
REWARDS = "phases[0].objective=reward_model"
LORA = "phases[0].trainable={lora: {rank: 2}}"
STAGES = {n: (DEEPSPEED, f"phases[0].engine.zero_stage={n}") for n in range(4)}
SMALL = "phases[0].engine.deepspeed={stage3_param_persistence_threshold: 10}"
ALL: dict[str, tuple[str, ...]] = {
    "one rank": ("phases[0].engine.kind=plain",),
    "one rank, rewards": ("phases[0].engine.kind=plain", REWARDS),
    "plain": ("phases[0].engine.kind=plain", "phases[0].batch.micro_size=1"),
    "zero0": STAGES[0],
    "zero1": STAGES[1],
    "zero2": STAGES[2],
    "zero2 frozen": (*STAGES[2], MEMORY),
    "zero3": (*STAGES[3], SMALL),
    "zero3 frozen": (*STAGES[3], SMALL, MEMORY),
    "zero3 base": (*STAGES[3], SMALL, LORA, MEMORY),
    "zero3 lora": (*STAGES[3], SMALL, LORA),
    "zero3 rewards": (*STAGES[3], SMALL, REWARDS),
}
RESUMED = ("zero3 frozen", "zero3 base")


class StopAt(Callback):
    """Stops every rank after a step, once."""

    step = 0
    flag: Any = None

    def step_ended(self, runtime: PhaseRuntime) -> None:
        if runtime.position.phase_step == StopAt.step:
            StopAt.flag.set()


class SharedWorld(World):
    """One process group for several sessions: DeepSpeed keeps to the first that it sees."""

    started: ClassVar[list[World]] = []

    def close(self) -> None:
        """Ends the session, and not the process group."""
        self.rendezvous.barrier("close")
        self.rendezvous.leave()

    @classmethod
    def of_session(
        cls, environment: RankEnvironment, rendezvous: Rendezvous, *, collective_timeout_s: float
    ) -> World:
        """Takes the place of `World(...)`."""
        if not cls.started:
            started = cls(environment, rendezvous, collective_timeout_s=collective_timeout_s)
            cls.started.append(started)
        cls.started[0].rendezvous = rendezvous
        return cls.started[0]


def train(folder: str, names: list[str], resumed: list[str]) -> None:
    """Trains the sessions in place, one after the other; some of them in two parts as well."""
    from phaseline.resilience.stop_flag import StopFlag
    from phaseline.training.pipeline import orchestrator
    from phaseline.training_pipeline import TrainingPipeline

    os.chdir(folder)
    vars(orchestrator)["World"] = SharedWorld.of_session
    stop_at = sys.modules["rank_functions"].StopAt
    for name, step in [*((name, 0) for name in names), *((name, 2) for name in resumed)]:
        session = Path(f"{name} in parts" if step else name)
        for stop in [step, 0] if step else [0]:
            stop_at.step, stop_at.flag = stop, StopFlag()
            TrainingPipeline(
                Path("config.yaml"),
                overrides=ALL[name],
                session_dir=session,
                stop_flag=stop_at.flag,
            ).run()
    SharedWorld.started[0].abandon()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("preferences")
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=259,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
        )
    )
    base.save_pretrained(path / "base")
    write_answers(path / "answers.jsonl", 30)
    (path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    names = list(ALL)
    run_ranks(train, 1, str(path), names[:2], [])
    run_ranks(train, 2, str(path), names[2:], list(RESUMED), timeout_s=280)
    return path


def metrics(folder: Path, name: str) -> list[dict[str, float]]:
    return [record["metrics"] for record in read_metrics(SessionLayout(folder / name))]


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    found = {}
    checkpoint = list_kept(SessionLayout(folder / name).phase("prefer"))[-1]
    with CheckpointWeights(checkpoint) as reader:
        for key, shape in reader.shapes.items():
            found[key] = torch.empty(shape)
            reader.read(key, 0, found[key].view(-1))
    return found


@pytest.mark.parametrize(
    "name", ["plain", "zero0", "zero1", "zero2", "zero2 frozen", "zero3", "zero3 frozen"]
)
def test_training_is_the_same_on_two_ranks_in_every_engine(folder: Path, name: str) -> None:
    expected = metrics(folder, "one rank")
    assert expected[0]["prefer/validation/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert expected[-1]["prefer/validation/loss"] < 0.65
    for found, wanted in zip(metrics(folder, name), expected, strict=True):
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    reference = weights(folder, "one rank")
    for key, value in weights(folder, name).items():
        torch.testing.assert_close(value, reference[key], rtol=1e-4, atol=1e-5)


def test_rewards_are_learnt_alike_on_two_ranks_from_the_same_fresh_head(folder: Path) -> None:
    one, other = metrics(folder, "one rank, rewards"), metrics(folder, "zero3 rewards")
    assert one[-1]["prefer/validation/loss"] < one[0]["prefer/validation/loss"]
    for found, wanted in zip(other, one, strict=True):
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_base_without_adapters_is_the_reference_that_was_measured(folder: Path) -> None:
    one, other = metrics(folder, "zero3 base"), metrics(folder, "zero3 lora")
    assert one[0]["prefer/validation/loss"] == pytest.approx(math.log(2), abs=1e-6)
    for found, wanted in zip(one, other, strict=True):
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", RESUMED)
def test_phase_has_the_same_bits_when_it_was_stopped_and_resumed(folder: Path, name: str) -> None:
    whole, parts = weights(folder, name), weights(folder, f"{name} in parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert metrics(folder, f"{name} in parts") == metrics(folder, name)
