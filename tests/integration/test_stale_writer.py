"""A rank of an earlier attempt that goes on writing changes nothing that a later one reads."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from integration.launched import COMMAND, RUN_LIMIT_S, Launched, view, wait_until
from phaseline.checkpoint.manifest import list_published
from phaseline.session.attempts import read_adopted, read_outcome
from phaseline.session.layout import SessionLayout

pytestmark = pytest.mark.extended(
    "a session that is stopped by SIGSTOP waits until its lease is taken over"
)

CONFIG = """
session: {name: stale, seed: 2}
model:
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
           num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 64}
phases:
  - name: text
    objective: causal_lm
    duration: 300 steps
    data: {source: python_stdlib, arguments: {packages: [json, email]}, sequence_length: 32,
           held_out_frac: 0.2}
    batch: {global_size: 4, micro_size: 4}
    optimizer: {lr: 4e-3}
    engine: {kind: plain}
    evaluate: {max_sequences: 4}
    checkpoint: {every: 10 steps}
tracking: {interval_steps: 5, wandb: {mode: disabled}}
"""


def start(folder: Path, *arguments: str, name: str) -> Launched:
    """Starts one rank as `accelerate launch` would, without a launcher that could end it."""
    log = folder / f"{name}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*COMMAND, "run", "config.yaml", "--session", "session", *arguments],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PHASELINE_CACHE": str(folder / "cache")},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    return Launched(process, log)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


def test_a_stale_writer_changes_nothing_when_it_goes_on_after_a_take_over(folder: Path) -> None:
    layout = SessionLayout(folder / "session")
    checkpoints = layout.phase("text").checkpoints_dir
    stale = start(folder, name="stale")
    try:
        wait_until(lambda: len(list_published(checkpoints)) >= 2, stale, "two checkpoints")
        stale.process.send_signal(signal.SIGSTOP)
        refused = start(folder, name="refused")
        assert refused.wait() == 2
        assert "--take-over" in refused.output
        assert start(folder, "--take-over", name="second").wait() == 0
        read_before = view(layout.root)
        saved_before = sorted(path.name for path in list_published(checkpoints))

        stale.process.send_signal(signal.SIGCONT)
        assert stale.process.wait(RUN_LIMIT_S) != 0
        assert "took over the session" in stale.output + _log(layout, 1)
        assert view(layout.root) == read_before
        assert len(read_before) == 301
        own = [name for name in saved_before if name.endswith(".a0002")]
        assert [p.name for p in list_published(checkpoints) if p.name.endswith(".a0002")] == own
    finally:
        stale.process.kill()
        stale.end()
    third = start(folder, name="third")
    assert third.wait() == 0
    adopted = read_adopted(layout.attempt(2))
    assert adopted is not None
    assert all(name.endswith(".a0001") for name in adopted.checkpoints)
    outcome = read_outcome(layout.attempt(2))
    assert outcome is not None
    assert int(outcome.code) == 0


def _log(layout: SessionLayout, attempt: int) -> str:
    return layout.attempt(attempt).rank_log(0).read_text()
