"""A compiled session, stopped and resumed in a fresh process, ends as one that ran through.

With it go activation checkpointing and the loss without logits: the levers work together.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import pytest

from distributed.ranks import run_ranks
from integration.launched import require_same_phase, view
from phaseline.resilience.stop_flag import StopFlag
from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.runtime import PhaseRuntime
from phaseline.training_pipeline import TrainingPipeline

pytestmark = pytest.mark.nightly  # a C++ compiler takes minutes; units compile in CI

CONFIG = """
session: {name: compiled, seed: 5}
model:
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
           num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 64,
           tie_word_embeddings: true, attention_dropout: 0.1}
phases:
  - name: text
    objective: causal_lm
    duration: 6 steps
    data: {source: python_stdlib, arguments: {packages: [json, email]}, sequence_length: 16,
           held_out_frac: 0.2, separate_documents: false}
    batch: {global_size: 4, micro_size: 2}
    optimizer: {lr: 1e-2}
    evaluate: {every: 2 steps, max_sequences: 4}
    callbacks: ["integration.test_compiled_session:StopAtThree"]
    engine: ENGINE
tracking: {console: "off", wandb: {mode: disabled}}
"""
ENGINES = {
    "plain": "{kind: plain, compile: true, activation_checkpointing: true, "
    "linear_cross_entropy: true}",
    "zero1": "{zero_stage: 1, compile: true}",
    "zero2": "{zero_stage: 2, compile: true, activation_checkpointing: true}",
    "zero3": "{zero_stage: 3, compile: true}",
}
FLAG = StopFlag()


class StopAtThree(Callback):
    """Asks for a stop after the third step, in sessions that are to be stopped."""

    def step_ended(self, runtime: PhaseRuntime) -> None:
        if os.environ.get("STOP_AT_THREE") and runtime.position.phase_step == 3:
            FLAG.set()


def run(folder: str, name: str, stop: bool, compiled: str) -> int:
    """One start of a session; `compiled` is the folder of what was compiled before."""
    os.environ["PHASELINE_CACHE"] = str(Path(folder) / "cache")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / compiled)
    if stop:
        os.environ["STOP_AT_THREE"] = "1"
    # By its name: what runs here was loaded under another, with a flag of its own.
    flag = import_module("integration.test_compiled_session").FLAG
    config, session = Path(folder) / "config.yaml", Path(folder) / name
    return int(TrainingPipeline(config, session_dir=session, stop_flag=flag).run().code)


# Three starts; where what goes on finds nothing compiled, two of them compile anew.
@pytest.mark.one_rank
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("engine", "goes_on_with"),
    [
        ("plain", "first"),
        *(pytest.param(name, "second", marks=pytest.mark.nightly) for name in ENGINES),
    ],
)
def test_compiled_session_resumes_bit_for_bit(
    engine: str, goes_on_with: str, tmp_path: Path
) -> None:
    text = CONFIG.replace("ENGINE", ENGINES[engine])
    (tmp_path / "config.yaml").write_text(text)
    starts = [
        ("smooth", False, "first", 0),
        ("rough", True, "first", 75),
        ("rough", False, goes_on_with, 0),
    ]
    for *start, code in starts:
        assert run_ranks(run, 1, str(tmp_path), *start, timeout_s=250) == [code]
    require_same_phase(tmp_path / "smooth", tmp_path / "rough", "text")
    assert view(tmp_path / "rough") == view(tmp_path / "smooth")
