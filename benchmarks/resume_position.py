"""Time from the command to the first step, resuming near the start and far into a phase.

Nothing is skipped over when a phase goes on: samples, learning rate and random state follow
from the position. So a session at step 10 and one at step 10,000,000 take turns here, both as
a user starts them, and both should take as long. On a busy machine believe the CPU time, which
is that of the whole start with its two steps.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.runtime import PhaseRuntime

STOPPED = 75
SESSION = """
session: {{name: far, root: {root}}}
model:
  config: {{model_type: llama, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 1,
            num_attention_heads: 2, num_key_value_heads: 2, tie_word_embeddings: true}}
phases:
  - name: only
    objective: causal_lm
    duration: 20_000_000 steps
    data: {{source: python_stdlib, sequence_length: 128}}
    batch: {{global_size: 32, micro_size: 32}}
    optimizer: {{lr: 1e-3}}
    schedule: {{name: cosine, warmup: 100 steps}}
    engine: {{kind: plain}}
    evaluate: {{max_sequences: 8}}
    callbacks: [resume_position:Jump]
tracking: {{interval_steps: 1, console: "off", wandb: {{mode: disabled}}}}
"""


class Jump(Callback):
    """Puts a new phase at the position in $JUMP_TO, and stops two steps after any start."""

    def __init__(self) -> None:
        self._num_steps = 0

    def phase_started(self, runtime: PhaseRuntime) -> None:
        if runtime.position.phase_step == 0:
            runtime.position.phase_step = runtime.position.global_step = int(os.environ["JUMP_TO"])

    def step_ended(self, runtime: PhaseRuntime) -> None:  # noqa: ARG002 - not needed
        self._num_steps += 1
        if self._num_steps == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Prepares one session per position and times its restarts in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, nargs="*", default=[10, 10_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sessions = {at: Path(folder, str(at)) for at in arguments.positions}
        for at, session in sessions.items():
            session.mkdir()
            (session / "far.yaml").write_text(SESSION.format(root=session), encoding="utf-8")
            start(session, at)
        starts: dict[int, list[Start]] = {at: [] for at in sessions}
        for _ in range(arguments.rounds):
            for at, session in sessions.items():
                starts[at].append(start(session, at))
    for at, found in starts.items():
        first_step_s = [one.first_step_s for one in found]
        print(
            f"resumed at {at:>12,}: first step after {statistics.median(first_step_s):.2f} s "
            f"({min(first_step_s):.2f} to {max(first_step_s):.2f}), "
            f"CPU {statistics.median(one.cpu_s for one in found):.2f} s"
        )


class Start(NamedTuple):
    """Seconds of one start: until its first step was done, and of CPU until it ended."""

    first_step_s: float
    cpu_s: float


def start(session: Path, jump_to: int) -> Start:
    """Starts or resumes a session until it stops itself."""
    here = str(Path(__file__).parent)
    environment = {
        **os.environ,
        "JUMP_TO": str(jump_to),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": here,
    }
    begun, cpu_before = time.time(), cpu_of_children_s()
    run = subprocess.run(
        [sys.executable, "-m", "phaseline", "run", str(session / "far.yaml")],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    if run.returncode not in (0, STOPPED):
        raise SystemExit(run.stdout + run.stderr)
    newest = max((session / "far" / "attempts").iterdir())
    lines = (newest / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [record for record in map(json.loads, lines) if record["kind"] == "train"]
    assert steps[0]["phase_step"] > jump_to, steps[0]
    return Start(steps[0]["timing"]["time"] - begun, cpu_of_children_s() - cpu_before)


def cpu_of_children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
