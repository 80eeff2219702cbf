"""Makes the session of a format that later versions are tested on: `python make_kept_session.py DIR`.

It has a first phase that is finished and a second that was stopped in the middle, on a corpus of a
few texts beside it, and `expected.json` has the losses of the same session without a stop. It is
made once, by the version that brings a format, and kept for good.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from phaseline.errors import ExitCode
from phaseline.resilience.stop_flag import StopFlag
from phaseline.session.layout import SessionLayout
from phaseline.session.metrics_view import read_metrics
from phaseline.training_pipeline import TrainingPipeline

STOPPED_AT = 8
TEXT = """\
session: {name: kept, seed: 3}
model:
  config:
    model_type: llama
    hidden_size: 8
    intermediate_size: 16
    num_hidden_layers: 1
    num_attention_heads: 2
    num_key_value_heads: 2
    max_position_embeddings: 64
    attention_dropout: 0.1
    tie_word_embeddings: true
defaults:
  data: {source: text_files, arguments: {paths: ["corpus/*.txt"]}, held_out_frac: 0.2}
  batch: {global_size: 8, micro_size: 4}
  engine: {kind: plain}
  checkpoint: {every: 2 steps}
phases:
  - name: first
    objective: causal_lm
    duration: 6 steps
    data: {sequence_length: 16}
    optimizer: {lr: 1e-2}
    evaluate: {samples: {prompts: ["word"], max_new_tokens: 4}}
  - name: second
    objective: causal_lm
    duration: 5 steps
    data: {sequence_length: 32}
    optimizer: {lr: 3e-3}
    inherit: {optimizer: keep}
    evaluate: {every: 2 steps}
tracking: {console: plain, wandb: {mode: disabled}}
export: {phases: [second]}
"""


class StopAfterSteps(StopFlag):
    """Asks to stop once so many steps are recorded."""

    def __init__(self, layout: SessionLayout) -> None:
        super().__init__()
        self._layout = layout

    @property
    def is_set(self) -> bool:
        """Whether the steps are recorded."""
        trained = sum(one["kind"] == "train" for one in read_metrics(self._layout))
        if trained >= STOPPED_AT:
            self.set()
        return super().is_set


def losses_of(layout: SessionLayout) -> list[list[Any]]:
    """Kind, phase, step and loss of every train record and validation, in order."""
    return [
        [one["kind"], one["phase"], one["phase_step"], one["metrics"][f"{one['phase']}/{key}"]]
        for one in read_metrics(layout)
        for key in [f"{one['kind']}/loss"]
        if one["kind"] != "samples"
    ]


def main(folder: Path) -> None:
    """Makes the session in a folder that is not there yet."""
    (folder / "corpus").mkdir(parents=True)
    os.chdir(folder)
    os.environ["PHASELINE_CACHE"] = "cache"
    Path("session.yaml").write_text(TEXT, encoding="utf-8")
    for idx in range(30):
        words = " ".join(f"word{idx * word % 13}" for word in range(20 + idx))
        Path("corpus", f"{idx:02}.txt").write_text(words, encoding="utf-8")
    whole, stopped = Path("whole"), Path("session")
    assert TrainingPipeline("session.yaml", session_dir=whole).run().code is ExitCode.FINISHED
    expected = json.dumps(losses_of(SessionLayout(whole)), indent=0)
    Path("expected.json").write_text(f"{expected}\n", encoding="utf-8")
    flag = StopAfterSteps(SessionLayout(stopped))
    outcome = TrainingPipeline("session.yaml", session_dir=stopped, stop_flag=flag).run()
    assert outcome.code is ExitCode.STOPPED, outcome
    for left in (whole, Path("cache")):
        shutil.rmtree(left)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
