"""A tiny session that starts from a Hugging Face folder and trains adapters in several ways."""

from __future__ import annotations

import socket
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
from phaseline.session.records import read_records
from phaseline.training_pipeline import TrainingPipeline

TEXT = """\
session: {name: adapters, seed: 3}
model: {pretrained: base, attention: eager}
defaults:
  objective: causal_lm
  duration: 3 steps
  data: {source: text_files, arguments: {paths: ["corpus/*.txt"]}, held_out_frac: 0.2,
         sequence_length: 16}
  batch: {global_size: 4, micro_size: 2}
  optimizer: {lr: 1e-1}
  engine: {kind: plain}
  callbacks: ["adapter_stops:StopAt"]
phases:
  - name: full
    evaluate: {every: 1 steps}
    checkpoint: {keep_best: {metric: loss, mode: max}}
  - {name: lora, trainable: {lora: {rank: 2, targets: [q_proj, down_proj]}}}
  - name: more
    trainable: {lora: {rank: 2, targets: [q_proj, down_proj], dropout: 0.1}}
    inherit: {optimizer: keep}
  - {name: merged, trainable: {freeze: [embed, proj], train: [k_proj]}}
  - name: again
    trainable: {lora: {rank: 3}, train: ["layers.0.*norm"]}
    inherit: {weights: "phase:full", at: best}
  - {name: dropped, inherit: {weights: "phase:lora", lora: drop}}
  - {name: longer, inherit: {weights: "phase:full", optimizer: keep}}
tracking: {console: plain, wandb: {mode: disabled}}
export: {phases: [merged, more], dtype: bf16, lora: adapter}
"""
_CALLBACK = """
from phaseline.training.phases.callbacks import Callback

stops = {}


class StopAt(Callback):
    def step_ended(self, runtime):
        step = runtime.position.global_step
        if step in stops:
            stops.pop(step).set()
"""
OLD_VOCABULARY, VOCABULARY = 250, 259


def tiny_llama(seed: int = 0, vocab_size: int = OLD_VOCABULARY) -> Any:
    """transformers' own, with tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def _refuse_network(_socket: socket.socket, address: object) -> None:
    raise AssertionError(f"a session whose model is a folder asked {address}")


@dataclass(frozen=True)
class Place:
    """A folder with the session file, the model that it starts from, and its corpus."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Place:
        tiny_llama().save_pretrained(folder / "base")
        (folder / "session.yaml").write_text(TEXT, encoding="utf-8")
        (folder / "adapter_stops.py").write_text(_CALLBACK, encoding="utf-8")
        (folder / "corpus").mkdir()
        for idx in range(20):
            words = " ".join(f"word{idx * word % 13}" for word in range(20 + idx))
            (folder / "corpus" / f"{idx:02}.txt").write_text(words, encoding="utf-8")
        return cls(folder)

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Makes it the place from which paths and callbacks are found."""
        monkeypatch.setattr(socket.socket, "connect", _refuse_network)
        monkeypatch.setenv("PHASELINE_CACHE", str(self.folder / "cache"))
        monkeypatch.chdir(self.folder)
        monkeypatch.syspath_prepend(self.folder)
        monkeypatch.delitem(sys.modules, "adapter_stops", raising=False)

    def run(self, name: str, *overrides: str, stop_at: int | None = None) -> Outcome:
        """Starts the session, or goes on with it; `stop_at` counts steps of the session."""
        flag = StopFlag()
        if stop_at is not None:
            import adapter_stops  # type: ignore[import-not-found]  # written above

            adapter_stops.stops[stop_at] = flag
        pipeline = TrainingPipeline(
            self.folder / "session.yaml",
            overrides=overrides,
            session_dir=self.folder / name,
            stop_flag=flag,
        )
        return pipeline.run()

    def layout(self, name: str = "whole") -> SessionLayout:
        return SessionLayout(self.folder / name)

    def weights(self, phase: str, name: str = "whole", idx: int = -1) -> dict[str, torch.Tensor]:
        """What one of a phase's checkpoints holds, by the names in the model."""
        folder = list_kept(self.layout(name).phase(phase))[idx]
        found = {}
        with CheckpointWeights(folder) as reader:
            for key, shape in reader.shapes.items():
                found[key] = torch.empty(shape)
                reader.read(key, 0, found[key].view(-1))
        return found

    def events(self, kind: str, name: str = "whole") -> list[dict[str, Any]]:
        layout = self.layout(name)
        return [
            record
            for number in layout.attempt_numbers()
            for record in read_records(layout.attempt(number).events_file)
            if record["event"] == kind
        ]
