"""Sessions for tests: a file with two phases, and checkpoints made by hand."""

from __future__ import annotations

from pathlib import Path

from phaseline.checkpoint.manifest import Manifest, checkpoint_name, hash_file
from phaseline.distributed.environment import RankEnvironment
from phaseline.session.layout import SessionLayout
from phaseline.training.pipeline.configuration_builder import (
    ConfigurationBuilder,
    TrainingConfiguration,
)
from phaseline.training.pipeline.session_manager import OpenSession, SessionManager

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
    """A checkpoint that verifies, and holds nothing of use."""
    folder = layout.phase(phase).checkpoints_dir / checkpoint_name(step, attempt)
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"some bytes")
    Manifest(
        phase=phase,
        phase_step=step,
        global_step=step,
        tokens=128 * step,
        final=final,
        attempt=attempt,
        world_size=1,
        engine="plain",
        config_fingerprint="f",
        committed=((attempt, step),),
        files={"a.bin": hash_file(folder / "a.bin")},
        created=0.0,
    ).save(folder)
    return folder
