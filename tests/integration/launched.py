"""Running `phaseline` as a user does, and looking at what it left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import safe_open

from phaseline.checkpoint.manifest import list_kept
from phaseline.checkpoint.trust import list_inherited
from phaseline.session.layout import SessionLayout
from phaseline.session.metrics_view import read_metrics
from phaseline.tracking.wandb_files import read_wandb_file

START_LIMIT_S = 120.0
RUN_LIMIT_S = 280.0
COMMAND = [sys.executable, "-m", "phaseline"]


@dataclass
class Launched:
    """A running `phaseline launch`, and everything it printed once it has ended."""

    process: subprocess.Popen[bytes]
    log: Path
    ranks: list[psutil.Process] = field(default_factory=list)

    def wait(self) -> int:
        """Returns the exit code; fails the test if it takes too long."""
        try:
            return self.process.wait(RUN_LIMIT_S)
        finally:
            self.end()

    def end(self) -> None:
        """Leaves nothing behind."""
        for child in self.descendants():
            child.kill()
        self.process.kill()
        self.process.wait()

    def descendants(self) -> list[psutil.Process]:
        """Every process below the launcher that runs the session on a rank, or starts those."""
        try:
            found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
            return found
        except psutil.NoSuchProcess:
            return []

    def rank(self, number: int) -> psutil.Process:
        """The process of a rank, by its environment."""
        for child in self.descendants():
            try:
                is_rank = "run" in child.cmdline() and "launch" not in child.cmdline()
                if is_rank and child.environ().get("RANK") == str(number):
                    return child
            except psutil.Error:
                continue
        raise AssertionError(f"rank {number} does not run")

    @property
    def output(self) -> str:
        """What the terminal showed."""
        return self.log.read_text(errors="replace")


def launch(
    config: Path,
    session: Path,
    *arguments: str,
    log: Path,
    variables: dict[str, str] | None = None,
) -> Launched:
    """Starts `phaseline launch`."""
    here = str(Path(__file__).parent)
    environment = {
        **os.environ,
        "PYTHONPATH": here,
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **(variables or {}),
    }
    command = [*COMMAND, "launch", str(config), "--session", str(session), *arguments]
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
    return Launched(process, log)


def wait_until(is_so: Callable[[], bool], launched: Launched, what: str) -> None:
    """Returns once something is so; fails if the launcher ends before, or it takes too long."""
    deadline = time.monotonic() + START_LIMIT_S
    while not is_so():
        assert launched.process.poll() is None, f"ended before {what}:\n{launched.output}"
        assert time.monotonic() < deadline, f"waited too long for {what}:\n{launched.output}"
        time.sleep(0.02)


def interrupt(launched: Launched) -> None:
    """Sends what Ctrl-C at a terminal sends to the launcher."""
    launched.process.send_signal(signal.SIGINT)


def view(session: Path) -> list[dict[str, Any]]:
    """The session's metrics, without what a clock measured."""
    records = list(read_metrics(SessionLayout(session)))
    for record in records:
        record.pop("timing")
    return records


def state_of(checkpoint: Path) -> dict[str, Any]:
    """Every tensor and every number of a checkpoint, in a form that can be compared."""
    found: dict[str, Any] = {}
    for path in sorted(checkpoint.glob("rank-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in sorted(file.keys()):
                tensor = file.get_tensor(key)
                # As bytes, for numpy has no bf16; with the shape, or two could be taken for one.
                bits = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
                found[f"{path.name}:{key}"] = (tensor.dtype, tensor.shape, bits)
    for path in [*sorted(checkpoint.glob("rank-*.json")), checkpoint / "state.json"]:
        found[path.name] = json.loads(path.read_text())
    return found


def final_checkpoint(session: Path, phase: str) -> Path:
    """The checkpoint that a phase ended with."""
    layout = SessionLayout(session)
    trusted = list_inherited(layout, max(layout.attempt_numbers()) + 1)
    return [path for path in list_kept(layout.phase(phase)) if path in trusted][-1]


def require_same_phase(smooth: Path, rough: Path, phase: str) -> None:
    """Compares bit for bit what a phase of two sessions ended with.

    A finished phase is reduced to its weights, unless the last attempt began with it: then one
    session may have optimizer state that the other has not.
    """
    folders = [final_checkpoint(session, phase) for session in (smooth, rough)]
    expected, found = map(state_of, folders)
    if {folder.parent.name for folder in folders} == {"checkpoints"}:
        assert found.keys() == expected.keys()
    both = found.keys() & expected.keys()
    weights = {key for key in found.keys() | expected.keys() if ".weights.safetensors:" in key}
    assert weights
    assert weights <= both
    assert [key for key in both if found[key] != expected[key]] == []


def attempts(session: Path) -> Sequence[int]:
    """Numbers of the session's attempts."""
    return SessionLayout(session).attempt_numbers()


def wandb_steps(session: Path) -> list[int]:
    """The step of every history record in the session's wandb files, in order."""
    from wandb.proto import wandb_internal_pb2

    steps = []
    for path in sorted(session.glob("wandb/**/run-*.wandb")):
        for payload in read_wandb_file(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(payload)
            if record.HasField("history"):
                steps.append(record.history.step.num)
    return sorted(steps)
