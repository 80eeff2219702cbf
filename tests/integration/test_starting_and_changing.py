"""Sessions that go on with other settings, and sessions that start from other sessions."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from distributed.ranks import run_ranks
from integration.launched import final_checkpoint, launch
from integration.seen_callback import SEEN_VARIABLE, STOP_VARIABLE
from phaseline.errors import ExitCode, PhaselineError
from phaseline.session.layout import SessionLayout
from phaseline.session.metrics_view import read_metrics
from phaseline.session.records import read_records
from phaseline.training_pipeline import TrainingPipeline

pytestmark = pytest.mark.extended("six starts in other worlds and engines")

TESTS = Path(__file__).parents[1]
CONFIG = """\
session: {name: changing, seed: 5}
model:
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,
           num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 64,
           tie_word_embeddings: true}
phases:
  - name: text
    objective: causal_lm
    duration: 6 steps
    data: {source: python_stdlib, arguments: {packages: [json, email]}, sequence_length: 32,
           held_out_frac: 0.2}
    batch: {global_size: 8, micro_size: 2}
    optimizer: {lr: 4e-3}
    engine: {zero_stage: 1}
    evaluate: {max_sequences: 4}
    callbacks: ["integration.seen_callback:Seen"]
tracking: {interval_steps: 1, console: "off", wandb: {mode: disabled}}
"""
LR = CONFIG.index("optimizer: {lr")
LR_LINE = CONFIG.count("\n", 0, LR) + 1
PLAIN = ("phases[0].engine={kind: plain}",)
OTHER_LAYOUT = ("phases[0].engine.zero_stage=3", "phases[0].batch.micro_size=4")


def train(
    folder: str, name: str, overrides: list[str], stop_at: int = 0, file: str = "session"
) -> str:
    """One start of a session in this process; how it ended, or why it was refused."""
    root = Path(folder)
    os.environ |= {
        "PHASELINE_CACHE": str(root / "cache"),
        SEEN_VARIABLE: str(root / f"{name}.seen"),
        STOP_VARIABLE: str(stop_at),
    }
    pipeline = TrainingPipeline(root / f"{file}.yaml", overrides=overrides, session_dir=root / name)
    try:
        return pipeline.run().code.name
    except PhaselineError as error:
        return f"{type(error).__name__}: {error}"


def train_alone(folder: str) -> dict[str, str]:
    """What one rank does after two ranks began the session `elastic`."""
    found = {"whole": train(folder, "whole", list(PLAIN))}
    found["changed"] = train(folder, "changed", list(PLAIN), stop_at=3)
    found["refused"] = train(folder, "changed", list(PLAIN), file="changed")
    found["elastic"] = train(folder, "elastic", list(OTHER_LAYOUT))
    weights = f"phases[0].inherit.weights={Path(folder) / 'elastic'}#text"
    found["second"] = train(folder, "second", [*PLAIN, weights], stop_at=1)
    # It has a checkpoint of its own now, and needs the other session no more.
    (Path(folder) / "elastic").rename(Path(folder) / "moved")
    found["goes on"] = train(folder, "second", [*PLAIN, weights])
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("changing")
    (path / "session.yaml").write_text(CONFIG)
    changed = CONFIG.replace("lr: 4e-3", "lr: 2e-3").replace('console: "off"', "console: plain")
    (path / "changed.yaml").write_text(changed)
    assert run_ranks(train, 2, str(path), "elastic", [], 3) == ["STOPPED", "STOPPED"]
    return path


@pytest.fixture(scope="module")
def ends(folder: Path) -> dict[str, str]:
    [found] = run_ranks(train_alone, 1, str(folder))
    return dict(found)


def seen(folder: Path, name: str) -> list[Any]:
    return [json.loads(line) for line in (folder / f"{name}.seen").read_text().splitlines()]


def events(session: Path, name: str) -> list[dict[str, Any]]:
    layout = SessionLayout(session)
    return [
        record
        for number in layout.attempt_numbers()
        for record in read_records(layout.attempt(number).events_file)
        if record["event"] == name
    ]


def losses(session: Path) -> list[float]:
    return [
        record["metrics"]["text/train/loss"]
        for record in read_metrics(SessionLayout(session))
        if record["kind"] == "train"
    ]


def test_samples_and_rates_stay_when_stage_micro_batch_and_ranks_change(
    folder: Path, ends: dict[str, str]
) -> None:
    assert (ends["whole"], ends["elastic"]) == ("FINISHED", "FINISHED")
    assert seen(folder, "elastic") == seen(folder, "whole")
    assert [step for _, step, _, _ in seen(folder, "elastic")] == [1, 2, 3, 4, 5, 6]
    assert losses(folder / "moved") == pytest.approx(losses(folder / "whole"), rel=1e-4)
    [event] = events(folder / "moved", "settings_changed")
    assert {change["path"]: (change["old"], change["new"]) for change in event["changes"]} == {
        "phases[0].batch.micro_size": (2, 4),
        "phases[0].engine.zero_stage": (1, 3),
        "ranks": (2, 1),
    }
    assert {change["effect"] for change in event["changes"]} == {"rounding"}
    # Another stage and another world: the phase is tried again before it goes on.
    assert len(events(folder / "moved", "phase_validated")) == 2


def test_session_starts_from_a_phase_of_another_and_needs_it_only_once(
    folder: Path, ends: dict[str, str]
) -> None:
    assert (ends["second"], ends["goes on"]) == ("STOPPED", "FINISHED")
    [taken] = events(folder / "second", "weights_taken")
    assert taken["path"] == str(final_checkpoint(folder / "moved", "text")).replace(
        "/moved/", "/elastic/"
    )
    assert taken["kind"] == "checkpoint of text at step 6"
    assert taken["tokenizer"] == "same"
    assert len(taken["fingerprint"]) == 32
    # It begins where the other ended, so what it learns first is worth less than fresh weights'.
    assert losses(folder / "second")[0] < losses(folder / "whole")[0] - 0.01


def test_change_is_refused_by_its_line_and_taken_when_the_launched_command_accepts_it(
    folder: Path, ends: dict[str, str]
) -> None:
    assert ends["changed"] == "STOPPED"
    change = f"phases[0].optimizer.lr was 0.004 and is now 0.002 ({folder}/changed.yaml:{LR_LINE})"
    assert change in ends["refused"]
    assert "accept them with --accept-change 'phases[0].optimizer.lr'" in ends["refused"]

    launched = launch(
        folder / "changed.yaml",
        folder / "changed",
        *("-o", *PLAIN, "--accept-change", "phases[text].optimizer"),
        log=folder / "changed.log",
        variables={
            "PYTHONPATH": str(TESTS),
            "PHASELINE_CACHE": str(folder / "cache"),
            SEEN_VARIABLE: str(folder / "changed.seen"),
        },
    )
    assert launched.wait() == ExitCode.FINISHED, launched.output
    assert "changes accepted: phases[0].optimizer.lr: 0.004 -> 0.002" in launched.output
    found, whole = seen(folder, "changed"), seen(folder, "whole")
    assert [ids for *_, ids in found] == [ids for *_, ids in whole]
    rates = [ours / theirs for (*_, [ours], _), (*_, [theirs], _) in zip(found, whole, strict=True)]
    assert rates == pytest.approx([1, 1, 1, 0.5, 0.5, 0.5])
