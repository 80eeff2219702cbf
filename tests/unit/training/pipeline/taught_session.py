"""A tiny session whose second phase is taught by its first."""

from __future__ import annotations

import shutil
from pathlib import Path

from phaseline.training.pipeline.exporting import ExportForm, export_phase
from phaseline.training.pipeline.trained_phase import TrainedPhase
from unit.training.pipeline.adapter_session import Place

TEXT = """\
session: {name: taught, seed: 3}
model:
  config:
    model_type: llama
    hidden_size: 16
    intermediate_size: 24
    num_hidden_layers: 1
    num_attention_heads: 2
    num_key_value_heads: 1
    max_position_embeddings: 64
    attention_dropout: 0.1
  attention: eager
defaults:
  objective: causal_lm
  duration: 3 steps
  data: {source: text_files, arguments: {paths: ["corpus/*.txt"]}, held_out_frac: 0.2,
         sequence_length: 16}
  batch: {global_size: 4, micro_size: 2}
  optimizer: {lr: 1e-1}
  engine: {kind: plain}
  checkpoint: {every: 1 steps}
  callbacks: ["adapter_stops:StopAt"]
phases:
  - {name: first}
  - name: second
    objective: distillation
    objective_arguments: {teacher: "phase:first", weight: 0.5, temperature: 2.0}
    duration: 4 steps
    inherit: {weights: fresh}
    evaluate: {every: 2 steps}
tracking: {console: plain, wandb: {mode: disabled}}
"""


def make(folder: Path) -> Place:
    """The folder with its session file and corpus."""
    place = Place.make(folder)
    shutil.rmtree(folder / "base")
    (folder / "session.yaml").write_text(TEXT, encoding="utf-8")
    return place


def teacher(text: object) -> str:
    """The override that names another teacher."""
    return f"phases[second].objective_arguments.teacher={text}"


def export(place: Place, to: str, phase: str = "first", name: str = "whole") -> Path:
    """A phase's last weights as a Hugging Face folder."""
    folder = place.folder / to
    trained = TrainedPhase.find(place.layout(name).root, phase)
    export_phase(trained, folder, ExportForm(dtype="fp32", max_shard_bytes=10**9, lora="merged"))
    return folder
