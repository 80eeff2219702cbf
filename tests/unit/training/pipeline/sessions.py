"""Sessions for tests: a file with two phases, and checkpoints made by hand."""

from __future__ import annotations

from pathlib import Path

from phaseline.distributed.environment import RankEnvironment
from phaseline.errors import ExitCode
from phaseline.session.identity import load_identity
from phaseline.session.layout import SessionLayout
from phaseline.training.pipeline.configuration_builder import (
    ConfigurationBuilder,
    TrainingConfiguration,
)
from phaseline.training.pipeline.session_manager import OpenSession, SessionManager
from unit.checkpoint.made_checkpoints import make_checkpoint
from unit.covered_lines import covered_of

TEXT = """\
session: {name: test, root: runs}
model: {config: {model_type: llama}}
defaults:
  data: {source: python_stdlib, sequence_length: 16}
  batch: {global_size: 8, micro_size: 4}
  optimizer: {lr: 0.01}
  engine: {kind: plain}
phases:
  - {name: first, objective: causal_lm, duration: 10 steps}
  - {name: second, objective: causal_lm, duration: 10 steps}
tracking: {console: "off", wandb: {mode: disabled}}
"""
THIRD = "  - {name: third, objective: causal_lm, duration: 10 steps}\ntracking:"


def configure(folder: Path, *overrides: str, text: str = TEXT) -> TrainingConfiguration:
    """The configuration of a session that lies in the folder."""
    path = folder / "session.yaml"
    path.write_text(text, encoding="utf-8")
    builder = ConfigurationBuilder(path, overrides=overrides, session_dir=folder / "session")
    return builder.build(dp_world_size=1)


def open_session(configuration: TrainingConfiguration) -> OpenSession:
    """Opens it as a lone rank."""
    return SessionManager(configuration, RankEnvironment.read({}), take_over=False).open()


def publish(
    layout: SessionLayout, phase: str, step: int, attempt: int, *, final: bool = False
) -> Path:
    """A checkpoint that verifies, stands on that many lines, and holds nothing of use."""
    identity = load_identity(layout)
    metrics = layout.attempt(attempt).metrics_file
    metrics.parent.mkdir(parents=True, exist_ok=True)
    metrics.write_text("{}\n" * step)
    return make_checkpoint(
        layout.phase(phase).checkpoints_dir,
        step,
        attempt,
        phase=phase,
        final=final,
        session="s" if identity is None else identity.id,
        committed=covered_of(layout, (attempt, step)),
    )


def run_once(folder: Path, *overrides: str, text: str = TEXT) -> int:
    """Opens and ends the session; returns the attempt's number."""
    session = open_session(configure(folder, *overrides, text=text))
    session.end(ExitCode.STOPPED, "a test")
    return session.attempt.number
