"""Whole sessions in this process, through the one class that a program of one's own uses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from phaseline.checkpoint.manifest import Manifest, Parent, list_kept
from phaseline.config.resolved import from_yaml
from phaseline.errors import (
    AnomalyError,
    ConfigurationError,
    DamagedDataError,
    DataError,
    ExitCode,
    SessionChangedError,
)
from phaseline.session.identity import load_identity
from phaseline.session.records import read_records
from phaseline.session.stored_config import load_stored_config
from unit.session_place import SessionPlace

_TEXT = """\
session: {name: small, seed: 3}
model:
  config:
    model_type: llama
    hidden_size: 16
    intermediate_size: 32
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
  callbacks: ["stopping_callback:StopAt"]
phases:
  - name: first
    objective: causal_lm
    duration: 6 steps
    data: {sequence_length: 16}
    optimizer: {lr: 1e-2}
    evaluate: {samples: {prompts: ["word"], max_new_tokens: 4, temperature: 1.0, check: python}}
  - name: second
    objective: causal_lm
    duration: 5 steps
    data: {sequence_length: 32}
    batch: {global_size: 4, micro_size: 2}
    optimizer: {lr: 3e-3}
    inherit: {optimizer: keep}
    evaluate: {every: 2 steps, at_start: true}
tracking: {console: plain, wandb: {mode: disabled}}
export: {phases: [second]}
"""
_CALLBACK = """
from phaseline.training.phases.callbacks import Callback

stops = {}
broken = set()


class StopAt(Callback):
    def __init__(self):
        self.count = 0

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]

    def step_ended(self, runtime):
        self.count += 1
        assert self.count == runtime.position.phase_step
        step = runtime.position.global_step
        if step in stops:
            stops.pop(step).set()
        if step in broken:
            for parameter in runtime.engine.module.parameters():
                parameter.data.fill_(float("nan"))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SessionPlace:
    (tmp_path / "session.yaml").write_text(_TEXT, encoding="utf-8")
    (tmp_path / "corpus").mkdir()
    for idx in range(30):
        words = " ".join(f"word{idx * word % 13}" for word in range(20 + idx))
        (tmp_path / "corpus" / f"{idx:02}.txt").write_text(words, encoding="utf-8")
    return SessionPlace.make(
        tmp_path, monkeypatch, module="stopping_callback", code=_CALLBACK, last="second"
    )


@pytest.mark.parametrize(
    ("name", "is_small"),
    [
        ("train.tokens", False),
        ("train.offsets.npy", True),
        pytest.param("train.tokens", True, marks=pytest.mark.nightly),
        pytest.param("train.offsets.npy", False, marks=pytest.mark.nightly),
        pytest.param("held_out.tokens", True, marks=pytest.mark.nightly),
        pytest.param("held_out.tokens", False, marks=pytest.mark.nightly),
    ],
)
def test_damaged_data_trains_no_other_weights(
    place: SessionPlace, monkeypatch: pytest.MonkeyPatch, name: str, is_small: bool
) -> None:
    assert place.run("whole").code is ExitCode.FINISHED
    [damaged] = (place.folder / "cache" / "stores").glob(f"*/{name}")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(bytes(content))
    if not is_small:
        # As of a corpus, which no start reads whole.
        monkeypatch.setattr("phaseline.data.cache._SMALL_BYTES", 0)
        with pytest.raises(DamagedDataError, match=f"{name} does not hold what was written"):
            place.run("again")
    assert place.run("again").code is ExitCode.FINISHED
    assert place.metrics("again") == place.metrics("whole")
    whole, again = place.weights("whole"), place.weights("again")
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_data_that_were_prepared_with_another_result_are_refused(place: SessionPlace) -> None:
    assert place.run_until("other", 3).code is ExitCode.STOPPED
    [saved] = list_kept(place.layout("other").phase("first"))[-1:]
    manifest = Manifest.load(saved)
    [name] = manifest.data
    other = replace(manifest, data={name: "0" * 32})
    (saved / "manifest.json").write_bytes(other.to_bytes())
    with pytest.raises(DataError, match=f"prepared anew with another result: {name} does not"):
        place.run("other")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        # What only the classes of transformers themselves can say.
        ("model.config.layer_types=[full_attention, full_attention]", "layer_types"),
        pytest.param(
            "model.config.rope_parameters={rope_type: nothing, rope_theta: 1e4}",
            "'nothing'",
            marks=pytest.mark.nightly,
        ),
        pytest.param("model.config.dtype=float33", "float33", marks=pytest.mark.nightly),
    ],
)
def test_model_that_cannot_be_built_is_refused_before_data_are_prepared(
    place: SessionPlace, override: str, message: str
) -> None:
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=message):
            place.run("refused", override)
    assert not (place.folder / "cache").exists()
    assert place.run("refused").code is ExitCode.FINISHED


def test_pipeline_finishes_in_place_and_leaves_everything(
    place: SessionPlace, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = place.run("whole")
    assert outcome.code is ExitCode.FINISHED
    layout = place.layout("whole")
    identity = load_identity(layout)
    assert identity is not None
    assert identity.state == "finished"
    assert [record["phase"] for record in identity.validated] == ["first", "second"]
    metrics = place.metrics("whole")
    train = [
        (r["phase"], r["phase_step"], r["global_step"]) for r in metrics if r["kind"] == "train"
    ]
    assert train == [
        *(("first", step, step) for step in range(1, 7)),
        *(("second", step, 6 + step) for step in range(1, 6)),
    ]
    [samples] = [record for record in metrics if record["kind"] == "samples"]
    assert samples["samples"][0]["prompt"] == "word"
    [kept] = layout.phase("first").samples_dir.iterdir()
    assert json.loads(kept.read_text()) == samples["samples"]
    assert (layout.exports_dir / "second" / "config.json").is_file()
    assert layout.report_file.is_file()
    assert not (layout.root / "validation").exists()
    assert "finished; everything lies in" in capsys.readouterr().err
    [prepared] = [
        event
        for event in read_records(layout.attempt(1).events_file)
        if event["event"] == "data_prepared"
    ]
    assert [one["phase"] for one in prepared["sources"]] == ["first", "second"]
    assert prepared["sources"][0]["train"]["documents"] > 0
    assert from_yaml(layout.attempt(1).config_file.read_text()) == load_stored_config(layout)
    saved = {
        phase: Manifest.load(list_kept(layout.phase(phase))[-1]) for phase in ("first", "second")
    }
    assert saved["first"].parents == ()
    assert saved["second"].parents == (Parent("first", 1, saved["first"].identity),)
    assert [one.clock for one in saved.values()] == [6, 11]
    # Both phases train on the same documents, so on the same store.
    assert saved["first"].data == saved["second"].data
    assert [len(one) for one in saved["first"].data.values()] == [32]
    digests = [record["sample_ids"] for record in metrics if record["kind"] == "train"]
    assert len(set(digests)) == len(train)

    again = place.run("whole")  # nothing is left to do
    assert again.code is ExitCode.FINISHED
    assert place.metrics("whole") == metrics


def test_pipeline_ends_with_the_same_bits_when_it_was_stopped_and_resumed(
    place: SessionPlace,
) -> None:
    place.run("whole")
    for step in (3, 6, 9):
        assert place.run_until("parts", step).code is ExitCode.STOPPED
    assert place.run("parts").code is ExitCode.FINISHED
    assert place.layout("parts").attempt_numbers() == [1, 2, 3, 4]
    whole, parts = place.weights("whole"), place.weights("parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert place.metrics("parts") == place.metrics("whole")


def test_pipeline_refuses_a_change_and_goes_on_when_it_is_taken_back(place: SessionPlace) -> None:
    place.run_until("changed", 3)
    with pytest.raises(SessionChangedError, match=r"phases\[0\]\.optimizer\.lr was 0\.01 and"):
        place.run("changed", "phases[0].optimizer.lr=0.5")
    assert place.run("changed").code is ExitCode.FINISHED


def test_pipeline_validates_once_when_a_phase_is_cut_to_the_step_of_its_checkpoint(
    place: SessionPlace,
) -> None:
    place.module.broken.add(9)
    with pytest.raises(AnomalyError):
        place.run("cut")
    place.module.broken.clear()
    outcome = place.run("cut", "phases[1].duration=2 steps", accept=["phases[1].duration"])
    assert outcome.code is ExitCode.FINISHED
    second = [record for record in place.metrics("cut") if record["phase"] == "second"]
    assert [(record["kind"], record["phase_step"]) for record in second] == [
        ("validation", 0),
        ("train", 1),
        ("train", 2),
        ("validation", 2),
    ]


def test_pipeline_refuses_an_objective_of_ones_own_on_data_of_another_shape(
    place: SessionPlace,
) -> None:
    own = "phaseline.objectives.sft:SupervisedFineTuning"
    with pytest.raises(ConfigurationError, match=r"phases\[0\]\.objective is sft, whose `shapes`"):
        place.run("other", f"phases[0].objective={own}")


def test_pipeline_goes_on_from_the_last_good_state_after_it_went_wrong(place: SessionPlace) -> None:
    place.run("whole")
    place.module.broken.add(4)
    with pytest.raises(AnomalyError, match="holds weights that are not finite"):
        place.run("broken")
    place.module.broken.clear()
    assert place.run("broken").code is ExitCode.FINISHED
    whole, broken = place.weights("whole"), place.weights("broken")
    assert all(torch.equal(whole[key], broken[key]) for key in whole)
    assert place.metrics("broken") == place.metrics("whole")
