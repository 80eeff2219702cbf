"""A follower that is killed while its session trains: the run has every step all the same."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from distributed.ranks import run_ranks
from integration.launched import view, wandb_steps
from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.runtime import PhaseRuntime
from phaseline.training_pipeline import TrainingPipeline

pytestmark = pytest.mark.extended("a session on a rank of its own, and wandb for it")

CONFIG = """
session: {name: followed, seed: 5}
model:
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
           num_attention_heads: 2, max_position_embeddings: 64}
phases:
  - name: text
    objective: causal_lm
    duration: 8 steps
    data: {source: python_stdlib, arguments: {packages: [json, email]}, sequence_length: 16,
           held_out_frac: 0.2}
    batch: {global_size: 4, micro_size: 2}
    optimizer: {lr: 1e-2}
    evaluate: {every: 4 steps, max_sequences: 4}
    callbacks: ["integration.test_killed_follower:KillFollower"]
    engine: {kind: plain}
tracking: {console: "off", interval_steps: 2, wandb: {mode: offline}}
"""


class KillFollower(Callback):
    """Kills it for good, as a machine without memory does."""

    def step_ended(self, runtime: PhaseRuntime) -> None:
        if runtime.position.phase_step == 5:
            [follower] = followers(os.environ["FOLLOWED"])
            follower.kill()


def followers(session: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if "phaseline.tracking.follower" in words and session in words:
            found.append(process)
    return found


def run(folder: str) -> int:
    session = Path(folder) / "session"
    os.environ["PHASELINE_CACHE"] = str(Path(folder) / "cache")
    os.environ["FOLLOWED"] = str(session)
    return int(TrainingPipeline(Path(folder) / "config.yaml", session_dir=session).run().code)


@pytest.mark.one_rank
def test_run_is_complete_when_its_follower_was_killed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    assert run_ranks(run, 1, str(tmp_path), timeout_s=120) == [0]
    session = tmp_path / "session"
    steps = wandb_steps(session)
    assert steps == [record["seq"] for record in view(session)]
    assert len(steps) == 10
    assert followers(str(session)) == []
