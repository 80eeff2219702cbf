"""Sessions of as many phases as a test wants, each unlike the one before it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from phaseline.errors import ExitCode
from phaseline.training_pipeline import TrainingPipeline

ENGINES = {
    "plain": "kind: plain",
    "zero0": "zero_stage: 0",
    "zero1": "zero_stage: 1",
    "zero2": "zero_stage: 2",
    "zero3": "zero_stage: 3",
}

_HEAD = """\
session: {{name: sequence, seed: 5}}
model:
  config:
    model_type: llama
    hidden_size: {width}
    intermediate_size: {inner}
    num_hidden_layers: {depth}
    num_attention_heads: 2
    num_key_value_heads: 2
    max_position_embeddings: 128
    tie_word_embeddings: true
    attention_dropout: 0.1
defaults:
  data: {{held_out_frac: 0.2}}
  evaluate: {{max_sequences: 4}}
tracking: {{interval_steps: 1, wandb: {{mode: disabled}}}}
phases:
"""
_OBJECTIVES = (
    (
        "objective: causal_lm, data: {source: python_stdlib, "
        "arguments: {packages: [json, email]}, sequence_length: 32}"
    ),
    (
        "objective: sft, data: {source: python_stdlib_functions, "
        "arguments: {packages: [email, asyncio]}, sequence_length: 128}"
    ),
)
_BATCHES = (
    "{global_size: 8, micro_size: 2}",
    "{global_size: 4, micro_size: 2}",
    "{global_size: 6, micro_size: 1}",
)
_FROZEN = ("[]", "[embed_tokens]", "[self_attn, 'norm']", "[mlp]")
_RATES = ("1e-2", "3e-3", "2e-3", "5e-3", "1e-3")


def write_sequence(
    path: Path,
    engines: Sequence[str],
    *,
    num_steps: int = 3,
    width: int = 32,
    depth: int = 1,
    callbacks: Sequence[str] = (),
) -> list[str]:
    """Writes a session file with one phase per engine, and returns the names of the phases.

    Objective, batch, frozen parameters, learning rate and precision each go round at a pace of
    their own.

    Args:
        path: The file.
        engines: Of `ENGINES`, in the order of the phases.
        num_steps: Of every phase.
        width: Of the model.
        depth: Of the model.
        callbacks: Of every phase, as `module:attribute`.
    """
    lines = [_HEAD.format(width=width, inner=2 * width, depth=depth)]
    names = [f"p{idx:02}_{engine}" for idx, engine in enumerate(engines)]
    for idx, (name, engine) in enumerate(zip(names, engines, strict=True)):
        precision = ("bf16", "fp32", "fp32")[idx % 3]
        lines.append(
            f"  - {{name: {name}, duration: {num_steps} steps, {_of(_OBJECTIVES, idx)},\n"
            f"     batch: {_of(_BATCHES, idx)}, optimizer: {{lr: {_of(_RATES, idx)}}},\n"
            f"     trainable: {{freeze: {_of(_FROZEN, idx)}}},\n"
            f"     engine: {{{ENGINES[engine]}, precision: {precision}}},\n"
            f"     callbacks: [{', '.join(callbacks)}]}}\n"
        )
    path.write_text("".join(lines), encoding="utf-8")
    return names


def run_in_place(config: str, session: str, cache: str) -> str:
    """Trains a session in this rank's own process, as a user's program does."""
    os.environ["PHASELINE_CACHE"] = cache
    outcome = TrainingPipeline(config, session_dir=session).run()
    assert outcome.code is ExitCode.FINISHED
    return outcome.reason


def _of(values: Sequence[str], idx: int) -> str:
    return values[idx % len(values)]
