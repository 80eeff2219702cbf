"""Classes on two ranks: the loss, the accuracy and the calibration of one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from distributed.ranks import run_ranks
from phaseline.session.layout import SessionLayout
from phaseline.session.metrics_view import read_metrics
from phaseline.training_pipeline import TrainingPipeline

CONFIG = """
session: {name: classes, seed: 5}
model: {factory: "distributed.test_classification:build"}
phases:
  - name: images
    objective: classification
    objective_arguments: {label_smoothing: 0.1, class_weights: [1, 2, 1, 1, 0.5]}
    duration: 6 steps
    data:
      source: "unit.data.labelled_sources:Images"
      arguments: {count: 67}
      held_out_frac: 0.2
    batch: {global_size: 8, micro_size: 2}
    optimizer: {lr: 1e-2}
    evaluate: {every: 3 steps, at_start: true, micro_size: 3}
    engine: {kind: plain}
tracking: {console: "off", wandb: {mode: disabled}}
"""


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(24, 16), torch.nn.Tanh(), torch.nn.Linear(16, 5)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(images.flatten(1))
        return logits


def build() -> torch.nn.Module:
    return Model()


def train(folder: str, name: str) -> int:
    os.chdir(folder)
    return int(TrainingPipeline(Path("config.yaml"), session_dir=Path(name)).run().code)


def metrics(session: Path) -> list[dict[str, Any]]:
    return [record["metrics"] for record in read_metrics(SessionLayout(session))]


def test_two_ranks_measure_and_learn_what_one_does(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    assert run_ranks(train, 1, str(tmp_path), "one") == [0]
    assert run_ranks(train, 2, str(tmp_path), "two") == [0, 0]
    expected, found = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert len(found) == len(expected) > 6
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    last = found[-1]
    assert {"loss", "accuracy", "calibration_error"} <= {name.split("/")[-1] for name in last}
