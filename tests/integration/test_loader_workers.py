"""Workers that read ahead: a rank is killed, and what is resumed has the same bits."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from integration.launched import Launched, attempts, final_checkpoint, launch, state_of, view
from phaseline.session.attempts import read_adopted
from phaseline.session.layout import SessionLayout

pytestmark = pytest.mark.extended("loader workers are forked and killed")

CONFIG = """\
session: {name: workers, seed: 3}
model:
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
           num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 128,
           attention_dropout: 0.1}
phases:
  - name: answers
    objective: sft
    duration: 8 steps
    data:
      sources:
        - {source: python_stdlib_functions, arguments: {packages: [email]}, weight: 2}
        - {source: python_stdlib_functions, arguments: {packages: [asyncio]}}
      sequence_length: 128
      held_out_frac: 0.2
      num_workers: 2
    batch: {global_size: 8, micro_size: 2}
    optimizer: {lr: 4e-3}
    schedule: {name: linear, warmup: 2 steps}
    engine: {kind: plain}
    evaluate: {every: 3 steps, max_sequences: 8}
    checkpoint: {every: 2 steps, asynchronous: false}
    callbacks: ["moments:KillAt"]
cluster: {processes_per_node: 2}
tracking: {wandb: {mode: disabled}}
"""


@pytest.mark.nightly
def test_killed_phase_ends_with_the_same_bits_when_workers_read_ahead(tmp_path: Path) -> None:
    smooth, rough = tmp_path / "smooth", tmp_path / "rough"
    run(smooth, "-o", "phases[0].data.num_workers=0", code=0)
    run(rough, code=1, KILL_AT="1:step:answers:5")
    run(rough, code=0)

    adopted = read_adopted(SessionLayout(rough).attempt(2))
    assert adopted is not None
    assert str(adopted.resumed_from).endswith("step-00000004.a0001")
    assert (attempts(smooth), attempts(rough)) == ([1], [1, 2])
    expected, found = (state_of(final_checkpoint(one, "answers")) for one in (smooth, rough))
    assert found == expected
    assert view(rough) == view(smooth)


def run(session: Path, *arguments: str, code: int, **variables: str) -> None:
    """Runs `phaseline launch` on two ranks to its end, after which none of its processes is left."""
    config = session.parent / "session.yaml"
    config.write_text(CONFIG)
    before = set(psutil.pids())
    launched: Launched = launch(
        config,
        session,
        *arguments,
        log=session.with_suffix(".log"),
        variables={"PHASELINE_CACHE": str(session.parent / "cache"), **variables},
    )
    assert launched.process.wait(200) == code, launched.output
    left = [process for process in psutil.process_iter() if is_left(process, before, session)]
    launched.end()
    assert left == []


def is_left(process: psutil.Process, before: set[int], session: Path) -> bool:
    """Whether a process was started since and works for the session: a rank, or its worker."""
    try:
        is_zombie = process.status() == psutil.STATUS_ZOMBIE
        is_ours = str(session) in " ".join(process.cmdline())
    except psutil.Error:
        return False
    return is_ours and not is_zombie and process.pid not in before
