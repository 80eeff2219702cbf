"""A rank is killed once in a phase of every objective: the same end as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.launched import attempts, launch, require_same_phase, view
from phaseline.session.attempts import read_adopted
from phaseline.session.layout import SessionLayout

pytestmark = pytest.mark.extended("each objective is killed and resumed")

ROOT = Path(__file__).parents[2]
TOKENS = """
session: {name: killed, seed: 5}
model:
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
           num_attention_heads: 2, max_position_embeddings: 256, attention_dropout: 0.1}
defaults:
  duration: 8 steps
  data: {held_out_frac: 0.2, sequence_length: 128}
  batch: {global_size: 8, micro_size: 2}
  optimizer: {lr: 1e-2}
  checkpoint: {every: 2 steps}
  evaluate: {every: 4 steps, max_sequences: 16}
  callbacks: ["integration.moments:KillAt"]
phases:
  - name: text
    objective: causal_lm
    data: {source: python_stdlib, arguments: {packages: [json, email]}}
    engine: {zero_stage: 1}
  - name: answers
    objective: sft
    data: {source: python_stdlib_functions, arguments: {packages: [email, asyncio]}}
    engine: {zero_stage: 3}
  - name: preferences
    objective: dpo
    data: {source: python_stdlib_preferences, arguments: {packages: [email, asyncio]},
           sequence_length: 256}
    engine: {zero_stage: 3, precision: bf16}
  - name: rewards
    objective: reward_model
    data: {source: python_stdlib_preferences, arguments: {packages: [email, asyncio]},
           sequence_length: 256}
    engine: {zero_stage: 2}
  - name: student
    objective: distillation
    objective_arguments: {teacher: "phase:text", weight: 0.5}
    data: {source: python_stdlib, arguments: {packages: [json, email]}}
    inherit: {weights: fresh}
    engine: {kind: plain}
  - name: adapted
    objective: sft
    trainable: {lora: {rank: 4, alpha: 8, targets: [q_proj, v_proj]}}
    data: {source: python_stdlib_functions, arguments: {packages: [email, asyncio]}}
    engine: {zero_stage: 3, precision: bf16}
tracking: {interval_steps: 3, wandb: {mode: disabled}}
cluster: {processes_per_node: 2}
"""
TOKEN_PHASES = ("text", "answers", "preferences", "rewards", "student", "adapted")
IMAGES = """
session: {name: images, seed: 5}
model: {factory: "digits_model:build", arguments: {channels: 8}}
phases:
  - name: digits
    objective: classification
    duration: 8 steps
    data: {source: digits, held_out_frac: 0.2}
    batch: {global_size: 32, micro_size: 8}
    optimizer: {lr: 1e-2}
    checkpoint: {every: 2 steps}
    evaluate: {every: 4 steps}
    engine: {zero_stage: 2}
    callbacks: ["integration.moments:KillAt"]
tracking: {interval_steps: 3, wandb: {mode: disabled}}
cluster: {processes_per_node: 2}
"""


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("text", "phases"),
    [
        pytest.param(TOKENS, TOKEN_PHASES, id="tokens"),
        pytest.param(IMAGES, ("digits",), id="images"),
    ],
)
def test_end_is_the_same_when_a_rank_is_killed_in_every_phase(
    text: str, phases: tuple[str, ...], tmp_path: Path
) -> None:
    config, smooth, rough = (tmp_path / name for name in ("session.yaml", "smooth", "rough"))
    config.write_text(text, encoding="utf-8")
    run(config, smooth, code=0)
    for idx, phase in enumerate(phases):
        run(config, rough, code=1, KILL_AT=f"{idx % 2}:step:{phase}:5")
    run(config, rough, code=0)
    assert attempts(rough) == list(range(1, len(phases) + 2))
    for attempt, phase in enumerate(phases, start=2):
        adopted = read_adopted(SessionLayout(rough).attempt(attempt))
        assert adopted is not None
        saved = f"phases/{phase}/run-1/checkpoints/step-00000004.a{attempt - 1:04}"
        assert adopted.resumed_from == saved
    for phase in phases:
        require_same_phase(smooth, rough, phase)
    assert view(rough) == view(smooth)


def run(config: Path, session: Path, *, code: int, **variables: str) -> None:
    """Runs `phaseline launch` to its end."""
    launched = launch(
        config,
        session,
        log=session.with_suffix(".log"),
        variables={
            "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT / 'examples'}",
            "PHASELINE_CACHE": str(session.parent / "cache"),
            **variables,
        },
    )
    assert launched.wait() == code, launched.output
