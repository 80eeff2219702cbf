"""A tiny session that learns texts and then which of two answers is preferred."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from phaseline.checkpoint.manifest import list_kept
from phaseline.checkpoint.weight_readers import CheckpointWeights
from phaseline.resilience.stop_flag import StopFlag
from phaseline.session.attempts import Outcome
from phaseline.session.layout import SessionLayout
from phaseline.session.metrics_view import read_metrics
from phaseline.training_pipeline import TrainingPipeline

TEXT = """\
session: {name: preferences, seed: 3}
model:
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2,
           num_attention_heads: 2, num_key_value_heads: 1, max_position_embeddings: 64}
defaults:
  engine: {kind: plain}
  optimizer: {lr: 1e-2, weight_decay: 0.0}
  schedule: {name: constant}
  callbacks: ["preference_stops:StopAt"]
phases:
  - name: learn
    objective: causal_lm
    duration: 3 steps
    data: {source: files, arguments: {paths: ["answers.jsonl"], columns: {text: chosen}},
           held_out_frac: 0.2, sequence_length: 32}
    batch: {global_size: 4, micro_size: 2}
  - name: prefer
    objective: dpo
    duration: 5 steps
    data: {source: files, arguments: {paths: ["answers.jsonl"], shape: preferences},
           held_out_frac: 0.2, sequence_length: 64}
    batch: {global_size: 4, micro_size: 2}
    evaluate: {every: 2 steps, at_start: true}
    checkpoint: {every: 1 steps}
tracking: {console: plain, wandb: {mode: disabled}}
"""
_CALLBACK = """
from phaseline.training.phases.callbacks import Callback

stops = {}
crashes = set()


class StopAt(Callback):
    def phase_started(self, runtime):
        if runtime.section.name in stops:
            stops.pop(runtime.section.name).set()

    def step_ended(self, runtime):
        step = runtime.position.global_step
        if step in stops:
            stops.pop(step).set()
        if step in crashes:
            crashes.remove(step)
            raise ValueError("as if it were killed")
"""


def write_answers(path: Path, num_pairs: int = 60) -> None:
    """Prompts with answers of many lengths; the chosen one counts up, the other one down."""
    with path.open("w", encoding="utf-8") as file:
        for idx in range(num_pairs):
            digits = "".join(str((idx + place) % 10) for place in range(2 + idx % 9))
            row = {
                "id": f"{idx:03}",
                "prompt": f"from {idx % 7}: ",
                "chosen": digits,
                "rejected": digits[::-1] + "!" * (idx % 4 + 1),
            }
            file.write(json.dumps(row) + "\n")


@dataclass(frozen=True)
class Place:
    """A folder with the session file and the answers."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Place:
        (folder / "session.yaml").write_text(TEXT, encoding="utf-8")
        (folder / "preference_stops.py").write_text(_CALLBACK, encoding="utf-8")
        write_answers(folder / "answers.jsonl")
        return cls(folder)

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Makes it the place from which paths and callbacks are found."""
        monkeypatch.setenv("PHASELINE_CACHE", str(self.folder / "cache"))
        monkeypatch.chdir(self.folder)
        monkeypatch.syspath_prepend(self.folder)
        monkeypatch.delitem(sys.modules, "preference_stops", raising=False)

    def run(
        self,
        name: str,
        *overrides: str,
        stop_at: int | str | None = None,
        crash_at: int | None = None,
    ) -> Outcome:
        """Starts the session, or goes on with it.

        Args:
            name: Of its folder.
            overrides: As on the command line.
            stop_at: A step of the session, or the phase that is stopped as it begins.
            crash_at: A step of the session that fails at its end.
        """
        import preference_stops  # type: ignore[import-not-found]  # written above

        flag = StopFlag()
        if stop_at is not None:
            preference_stops.stops[stop_at] = flag
        if crash_at is not None:
            preference_stops.crashes.add(crash_at)
        pipeline = TrainingPipeline(
            self.folder / "session.yaml",
            overrides=overrides,
            session_dir=self.folder / name,
            stop_flag=flag,
        )
        return pipeline.run()

    def layout(self, name: str) -> SessionLayout:
        return SessionLayout(self.folder / name)

    def reference_files(self, name: str) -> list[Path]:
        return sorted(self.layout(name).phase("prefer").reference_dir.glob("*.npy"))

    def weights(self, name: str, phase: str = "prefer") -> dict[str, torch.Tensor]:
        """What the phase's last checkpoint holds, by the names in the model."""
        folder = list_kept(self.layout(name).phase(phase))[-1]
        found = {}
        with CheckpointWeights(folder) as reader:
            for key, shape in reader.shapes.items():
                found[key] = torch.empty(shape)
                reader.read(key, 0, found[key].view(-1))
        return found

    def metrics(self, name: str, kind: str | None = None) -> list[dict[str, Any]]:
        """Records without timing; of the preference phase alone if a kind is named."""
        return [
            {key: value for key, value in record.items() if key != "timing"}
            for record in read_metrics(self.layout(name))
            if kind is None or (record["kind"], record["phase"]) == (kind, "prefer")
        ]

    def losses(self, name: str, kind: str = "train") -> list[float]:
        return [r["metrics"][f"prefer/{kind}/loss"] for r in self.metrics(name, kind)]
