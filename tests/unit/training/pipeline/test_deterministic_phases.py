"""`engine.deterministic` around the phases of a session that runs in this process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from phaseline.errors import EngineError, ExitCode
from phaseline.training_pipeline import TrainingPipeline

_TEXT = """\
session: {name: small}
model: {factory: "deterministic_parts:build"}
defaults:
  data: {source: text_files, arguments: {paths: ["corpus/*.txt"]}, held_out_frac: 0.2}
  batch: {global_size: 2, micro_size: 2}
  engine: {kind: plain}
  callbacks: ["deterministic_parts:Witness"]
  objective: causal_lm
  duration: 1 steps
  optimizer: {lr: 1e-2}
phases:
  - {name: first, data: {sequence_length: 8}}
  - {name: second, data: {sequence_length: 8}, engine: {deterministic: false}}
  - {name: third, data: {sequence_length: 8}, engine: {deterministic: true}}
tracking: {console: plain, wandb: {mode: disabled}}
"""
_PARTS = """
import torch
from phaseline.training.phases.callbacks import Callback

seen = []
puts = False


class Model(torch.nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = torch.nn.Embedding(vocab_size, vocab_size)

    def forward(self, input_ids):
        if puts:
            torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
        return self.table(input_ids)


def build(vocab_size):
    return Model(vocab_size)


class Witness(Callback):
    def step_ended(self, runtime):
        seen.append((runtime.section.name, torch.get_deterministic_debug_mode()))
"""


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PHASELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "deterministic_parts", raising=False)
    Path("small.yaml").write_text(_TEXT, encoding="utf-8")
    Path("deterministic_parts.py").write_text(_PARTS, encoding="utf-8")
    Path("corpus").mkdir()
    for idx in range(30):
        Path("corpus", f"{idx}.txt").write_text(f"text {idx} " * 10, encoding="utf-8")
    import deterministic_parts  # type: ignore[import-not-found]  # written above

    return deterministic_parts


def test_each_phase_has_its_own_switches_when_phases_run_in_one_process(
    parts: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = TrainingPipeline("small.yaml").run()
    assert outcome.code is ExitCode.FINISHED
    assert parts.seen == [("first", 2), ("second", 0), ("third", 2)]
    assert torch.get_deterministic_debug_mode() == 0
    shown = capsys.readouterr().err
    assert shown.count("first, third: deterministic: an interrupted run equals") == 1
    assert shown.count("second: not deterministic: a resumed run begins from the same bits") == 1


def test_session_ends_with_setting_and_operation_when_an_operation_has_no_fixed_order(
    parts: Any,
) -> None:
    parts.puts = True
    overrides = ["phases[0].engine.deterministic=false"]
    with pytest.raises(
        EngineError, match=r"^phases\[2\]\.engine\.deterministic is true, and .* put_\. "
    ):
        TrainingPipeline("small.yaml", overrides=overrides).run()
    assert torch.get_deterministic_debug_mode() == 0
    assert parts.seen == []
