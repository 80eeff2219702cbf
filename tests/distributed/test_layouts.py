"""One configuration on other numbers of ranks and micro-batches: the same training."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from distributed.ranks import run_ranks
from phaseline.session.layout import SessionLayout
from phaseline.session.metrics_view import read_metrics
from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.runtime import PhaseRuntime

pytestmark = pytest.mark.extended("a session for each layout of the batch")

CONFIG = """
session: {name: layouts, seed: 5}
model:
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
           num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 256}
defaults:
  data: {held_out_frac: 0.2}
  batch: {global_size: 8, micro_size: 8}
  engine: {kind: plain}
  callbacks: ["rank_functions:Seen"]
phases:
  - name: text
    objective: causal_lm
    duration: 768 tokens
    data: {source: python_stdlib, arguments: {packages: [json, email]}, sequence_length: 8}
    optimizer: {lr: 4e-3}
    schedule: {name: cosine, warmup: 3 steps, final_lr_frac: 0.25}
  - name: pairs
    objective: sft
    duration: 9 steps
    data:
      source: python_stdlib_functions
      arguments: {packages: [email, asyncio]}
      sequence_length: 256
    optimizer: {lr: 2e-3}
    schedule: {name: wsd, warmup: 2 steps, decay: 3 steps, final_lr_frac: 0.5}
tracking: {interval_steps: 4, console: "off", wandb: {mode: disabled}}
"""
LAYOUTS = {"1x8x1": (1, 8), "1x2x4": (1, 2), "2x4x1": (2, 4), "2x1x4": (2, 1)}


class Seen(Callback):
    """Writes down the learning rate that is in the live optimizer, and the samples."""

    def step_ended(self, runtime: PhaseRuntime) -> None:
        if not runtime.world.is_main:
            return
        rates = {group["lr"] for group in runtime.engine.param_groups}
        ids = runtime.data.sample_ids(runtime.position.phase_step - 1).tolist()
        with Path(os.environ["SEEN"]).open("a") as file:
            file.write(json.dumps([runtime.section.name, sorted(rates), ids]) + "\n")


def train(folder: str, names: list[str]) -> None:
    """Trains the session in place, once per layout, one after the other."""
    from phaseline.training_pipeline import TrainingPipeline

    config = Path(folder) / "config.yaml"
    for name in names:
        os.environ["SEEN"] = str(Path(folder) / f"{name}.seen")
        micro_size = LAYOUTS[name][1]
        TrainingPipeline(
            config,
            overrides=[f"phases[*].batch.micro_size={micro_size}"],
            session_dir=Path(folder) / name,
        ).run()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("layouts")
    (path / "config.yaml").write_text(CONFIG)
    for world_size in (1, 2):
        names = [name for name, (ranks, _) in LAYOUTS.items() if ranks == world_size]
        run_ranks(train, world_size, str(path), names)
    return path


def seen(folder: Path, name: str) -> list[Any]:
    return [json.loads(line) for line in (folder / f"{name}.seen").read_text().splitlines()]


def losses(folder: Path, name: str) -> list[float]:
    records = read_metrics(SessionLayout(folder / name))
    return [
        record["metrics"][f"{record['phase']}/train/loss"]
        for record in records
        if record["kind"] == "train"
    ]


@pytest.mark.parametrize("name", LAYOUTS)
def test_learning_rate_and_samples_are_the_same_in_every_layout(folder: Path, name: str) -> None:
    assert seen(folder, name) == seen(folder, "1x8x1")


@pytest.mark.parametrize("name", LAYOUTS)
def test_learning_rate_ends_as_configured_in_every_layout(folder: Path, name: str) -> None:
    rates = {phase: rate for phase, rate, _ in seen(folder, name)}
    assert rates == {"text": [4e-3 * 0.25], "pairs": [2e-3 * 0.5]}
    counts = [phase for phase, _, _ in seen(folder, name)]
    assert (counts.count("text"), counts.count("pairs")) == (12, 9)


@pytest.mark.parametrize("name", LAYOUTS)
def test_losses_agree_in_every_layout(folder: Path, name: str) -> None:
    assert losses(folder, name) == pytest.approx(losses(folder, "1x8x1"), rel=2e-4)
