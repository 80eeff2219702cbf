"""Terminals that are closed and readers that end, with a real terminal and a real pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.launched import COMMAND, Launched, view, wait_until
from integration.moments import HOLD
from phaseline.checkpoint.manifest import list_published
from phaseline.errors import ExitCode
from phaseline.session.attempts import read_error, read_outcome
from phaseline.session.layout import SessionLayout

pytestmark = pytest.mark.extended("starts a session twice")

CONFIG = """\
session: {name: gone, seed: 5}
model:
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
           num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 64,
           tie_word_embeddings: true}
phases:
  - name: text
    objective: causal_lm
    duration: 150 steps
    data: {source: python_stdlib, arguments: {packages: [json, email]}, sequence_length: 32,
           held_out_frac: 0.2}
    batch: {global_size: 8, micro_size: 8}
    optimizer: {lr: 4e-3}
    engine: {kind: plain}
    evaluate: {max_sequences: 4}
    callbacks: ["moments:HoldAt"]
tracking: {interval_steps: 1, wandb: {mode: disabled}}
"""


class Session:
    """One session that is started again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "session"
        self.layout = SessionLayout(self.root)
        (folder / "session.yaml").write_text(CONFIG)
        self.command = [*COMMAND, "launch", "session.yaml", "--session", "session"]
        self.environment = {
            **os.environ,
            "PHASELINE_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "TERM": "xterm-256color",
            "PYTHONPATH": str(Path(__file__).parent),
        }
        self._launched: list[Launched] = []

    def start(self, stream: int, *, stdin: int = subprocess.DEVNULL) -> Launched:
        """Starts it with a descriptor as its output, and as its terminal if it is its input."""

        def take_terminal() -> None:
            # As in a shell of one's own: under nohup it would be ignored, on purpose.
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            fcntl.ioctl(stream, termios.TIOCSCTTY, 0)

        process = subprocess.Popen(
            self.command,
            cwd=self.folder,
            env=self.environment,
            stdin=stdin,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            preexec_fn=take_terminal if stdin == stream else None,
        )
        os.close(stream)
        launched = Launched(process, self.folder / "no.log")
        launched.log.touch()
        self._launched.append(launched)
        return launched

    def has_trained(self) -> bool:
        """Whether the newest attempt has recorded a step."""
        numbers = self.layout.attempt_numbers()
        metrics = self.layout.attempt(numbers[-1]).metrics_file if numbers else None
        return metrics is not None and metrics.is_file() and metrics.stat().st_size > 0

    def require_finished(self) -> None:
        """Every step is there once, and the session says that it is finished."""
        steps = [record["phase_step"] for record in view(self.root) if record["kind"] == "train"]
        assert steps == list(range(1, 151))
        outcome = read_outcome(self.layout.attempt(self.layout.attempt_numbers()[-1]))
        assert outcome is not None
        assert outcome.code is ExitCode.FINISHED

    def end(self) -> None:
        for launched in self._launched:
            launched.end()


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    made = Session(tmp_path)
    yield made
    made.end()


def open_terminal() -> tuple[int, int]:
    """Both ends of a terminal of 100 columns."""
    main, other = pty.openpty()
    fcntl.ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    return main, other


def test_closed_terminal_saves_and_stops_and_a_gone_reader_does_not_matter(
    session: Session,
) -> None:
    main, other = open_terminal()
    session.environment[HOLD] = "100"
    launched = session.start(other, stdin=other)
    assert b"Starting session" in os.read(main, 1 << 16)
    wait_until(session.has_trained, launched, "training")
    os.close(main)  # the terminal's window
    assert launched.wait() == ExitCode.STOPPED
    attempt = session.layout.attempt(1)
    outcome = read_outcome(attempt)
    assert outcome is not None
    assert outcome.reason == "stopped on request (the terminal was closed, SIGHUP)"
    assert read_error(attempt) is None
    [checkpoint] = list_published(session.layout.phase("text").checkpoints_dir)
    steps = [record["phase_step"] for record in view(session.root)]
    assert int(checkpoint.name.split(".")[0].removeprefix("step-")) == max(steps)

    del session.environment[HOLD]
    # As `phaseline launch ... 2>&1 | head -1`.
    reading, writing = os.pipe()
    launched = session.start(writing)
    with os.fdopen(reading) as stream:
        assert stream.readline().startswith("Starting session;")
    assert launched.wait() == ExitCode.FINISHED
    session.require_finished()

    # Of a session that is finished, to nobody at all.
    reading, writing = os.pipe()
    os.close(reading)
    assert session.start(writing).wait() == ExitCode.FINISHED
