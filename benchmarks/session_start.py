"""CPU time of starting and ending a training run, and of a phase's edge, beside the peers'.

Each run is a process tree of its own, as a user starts it, with wandb offline. A run of few
steps and one of many take turns; their difference is what a step costs, and what is left of
the short one is the start with the end. A session of two phases against one of one phase
gives the edge. The model has one parameter, or with --llama is a tiny Llama of transformers.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from start_rows import LR, MICRO_SIZE, SEQUENCE_LENGTH

HERE = Path(__file__).parent
SHORT, LONG = 10, 310
PEERS = {
    "torch, bare": "start_bare.py",
    "accelerate": "start_accelerate.py",
    "HF Trainer": "start_hf_trainer.py",
}
_PR_SET_CHILD_SUBREAPER = 36
_ONE_PARAMETER = '{factory: "one_parameter:build"}'
_LLAMA = (
    "{config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, "
    "num_attention_heads: 2}}"
)
_SESSION = """
session: {{name: start, root: {folder}}}
model: {model}
defaults:
  objective: causal_lm
  data: {{source: text_files, arguments: {{paths: ["{folder}/*.txt"]}},
          sequence_length: {length}, held_out_frac: 0.2}}
  batch: {{global_size: {rows}, micro_size: {rows}}}
  optimizer: {{lr: {lr}, clip_norm: 1.0}}
  engine: {engine}
  evaluate: {{max_sequences: 8}}
phases: [{phases}]
tracking: {{interval_steps: 10, wandb: {{mode: offline}}}}
"""


def main() -> None:
    """Measures in turn and prints medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", default="{kind: plain}", help="the phases' engine section")
    parser.add_argument("--llama", action="store_true", help="a model of transformers; no peers")
    arguments = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    model = _LLAMA if arguments.llama else _ONE_PARAMETER
    found: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        found.setdefault(name, []).append(seconds)

    for _ in range(arguments.rounds):
        for name, script in {} if arguments.llama else PEERS.items():
            note(name, _start_from(peer(script, SHORT), peer(script, LONG)))
        one = session(model, arguments.engine, [SHORT])
        note("Phaseline, edge", session(model, arguments.engine, [SHORT, SHORT]) - one)
        note("Phaseline", _start_from(one, session(model, arguments.engine, [LONG])))
    print(f"CPU seconds, median of {arguments.rounds} rounds (least to most)")
    for name, seconds in found.items():
        low, high = min(seconds), max(seconds)
        print(f"{name:<20}{statistics.median(seconds):6.2f} ({low:.2f} to {high:.2f})")


def peer(script: str, num_steps: int) -> float:
    """CPU seconds of a peer's script over so many steps."""
    with tempfile.TemporaryDirectory() as folder:
        return _cpu_of([sys.executable, str(HERE / script), str(num_steps)], Path(folder))


def session(model: str, engine: str, steps_of_phases: list[int]) -> float:
    """CPU seconds of a session that is launched anew, on data that are prepared by it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for idx in range(100):
            (folder / f"{idx}.txt").write_text(f"{idx} is followed by {idx + 1}. " * 100)
        phases = ", ".join(
            f"{{name: phase{idx}, duration: {steps} steps}}"
            for idx, steps in enumerate(steps_of_phases)
        )
        config = folder / "session.yaml"
        config.write_text(
            _SESSION.format(
                folder=folder,
                model=model,
                engine=engine,
                phases=phases,
                length=SEQUENCE_LENGTH,
                rows=MICRO_SIZE,
                lr=LR,
            )
        )
        return _cpu_of([sys.executable, "-m", "phaseline", "launch", str(config)], folder)


def _start_from(short_s: float, long_s: float) -> float:
    """What is left of the short run without its steps."""
    return short_s - SHORT * (long_s - short_s) / (LONG - SHORT)


def _cpu_of(command: list[str], folder: Path) -> float:
    """CPU seconds of a command and of everything that it left running for a while."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(HERE),
        "PHASELINE_CACHE": str(folder / "cache"),
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
        "WANDB_SILENT": "true",
    }
    before = _cpu_of_children_s()
    done = subprocess.run(
        command, env=environment, cwd=folder, check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise SystemExit(done.stdout + done.stderr)
    # What the command's processes started and outlived comes to this process.
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    return _cpu_of_children_s() - before


def _cpu_of_children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
