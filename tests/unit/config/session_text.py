"""Session files for tests, made from one that is valid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from phaseline.config.loading import load_config
from phaseline.config.schema import keys_at, slot_at
from phaseline.config.sections import Config
from phaseline.config.tree import Loc

VALID = """\
session:
  name: test
model:
  config: {model_type: llama, max_position_embeddings: 64}
defaults:
  data:
    source: python_stdlib
    sequence_length: 64
  batch:
    global_size: 8
    micro_size: 4
  optimizer:
    lr: 3e-4
phases:
  - name: first
    objective: causal_lm
    duration: 100 steps
  - name: second
    objective: causal_lm
    duration: 50 steps
    optimizer:
      lr: 1e-4
"""


def write(folder: Path, text: str = VALID) -> Path:
    """Writes a session file into a folder."""
    path = folder / "session.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, *overrides: str, text: str = VALID) -> Config:
    """The configuration of a session file with overrides."""
    return load_config(write(folder, text), overrides).config


def settings(loc: Loc = ()) -> Iterator[Loc]:
    """The path of every setting that the schema has, in the first member of every list."""
    for key in keys_at(loc):
        slot = slot_at((*loc, key))
        if slot is None:
            assert key == "defaults"
            continue
        yield (*loc, key)
        if slot.section is not None:
            yield from settings((*loc, key, 0) if slot.is_list else (*loc, key))
