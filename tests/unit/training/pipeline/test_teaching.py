"""A phase that is taught: by another phase, by a folder, by another session."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from phaseline.errors import ConfigurationError, DataError, ExitCode
from phaseline.session.metrics_view import read_metrics
from unit.training.pipeline.adapter_session import Place, tiny_llama
from unit.training.pipeline.taught_session import TEXT, export, make, teacher

pytestmark = pytest.mark.extended("a session for each kind of teacher")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The session, run once through as `whole`."""
    place = make(tmp_path_factory.mktemp("taught"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        place.enter(monkeypatch)
        assert place.run("whole").code is ExitCode.FINISHED
        export(place, "large")
    return place


@pytest.fixture
def place(trained: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    trained.enter(monkeypatch)
    return trained


def metrics(place: Place, name: str, phase: str = "second") -> list[dict[str, Any]]:
    return [
        {"step": record["phase_step"], **record["metrics"]}
        for record in read_metrics(place.layout(name))
        if record["phase"] == phase
    ]


def require_same_training(place: Place, name: str) -> None:
    whole, other = place.weights("second"), place.weights("second", name)
    assert whole.keys() == other.keys()
    assert all(torch.equal(whole[key], other[key]) for key in whole)
    assert metrics(place, name) == metrics(place, "whole")


def test_phase_is_taught_by_the_last_weights_of_the_phase_that_is_named(place: Place) -> None:
    [taken] = place.events("teacher_taken")
    assert taken["phase"] == "second"
    assert taken["kind"] == "checkpoint of first at step 3"


def test_measures_are_recorded_and_make_up_the_loss(place: Place) -> None:
    found = metrics(place, "whole")
    groups = [
        (group, record)
        for record in found
        for group in ("train", "validation")
        if f"second/{group}/loss" in record
    ]
    assert [group for group, _ in groups].count("validation") == 2
    assert [group for group, _ in groups].count("train") == 4
    for group, record in groups:
        entropy, kl = (record[f"second/{group}/{name}"] for name in ("cross_entropy", "kl"))
        assert kl > 0
        mixed = 0.5 * entropy + 0.5 * 2.0**2 * kl
        assert record[f"second/{group}/loss"] == pytest.approx(mixed, rel=1e-5)


def test_perplexity_and_bits_per_byte_are_those_of_the_cross_entropy(place: Place) -> None:
    record = metrics(place, "whole")[-1]
    plain = metrics(place, "whole", "first")[-1]
    entropy = record["second/validation/cross_entropy"]
    assert record["second/validation/perplexity"] == pytest.approx(math.exp(entropy))
    # The held-out data of both phases are the same.
    bits_per_nat = plain["first/validation/bits_per_byte"] / plain["first/validation/loss"]
    bits = record["second/validation/bits_per_byte"]
    assert bits == pytest.approx(entropy * bits_per_nat, rel=1e-5)


def test_distillation_ends_with_the_same_bits_when_it_was_stopped_and_resumed(
    place: Place,
) -> None:
    # After step 5 the teacher's checkpoint holds its weights alone, and is the same teacher.
    for step in (2, 5, 6):
        assert place.run("parts", stop_at=step).code is ExitCode.STOPPED
    assert place.run("parts").code is ExitCode.FINISHED
    assert len(place.events("teacher_taken", "parts")) == 3
    require_same_training(place, "parts")


def test_exported_folder_of_the_same_phase_teaches_the_same(place: Place) -> None:
    assert place.run("folder", teacher("large")).code is ExitCode.FINISHED
    [taken] = place.events("teacher_taken", "folder")
    assert taken["kind"] == "Hugging Face folder"
    [of_phase] = place.events("teacher_taken")
    assert taken["fingerprint"] == of_phase["fingerprint"]
    require_same_training(place, "folder")


def test_phase_of_another_session_teaches_the_same(place: Place) -> None:
    assert place.run("other", teacher("whole#first")).code is ExitCode.FINISHED
    assert place.events("teacher_taken", "other")[0]["kind"] == "checkpoint of first at step 3"
    require_same_training(place, "other")


def test_phase_of_another_session_may_be_of_another_architecture(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = ("model.config.hidden_size=32", "model.config.num_hidden_layers=2")
    assert place.run("wide", *wide, stop_at=4).code is ExitCode.STOPPED
    assert place.run("narrow", teacher("wide#first")).code is ExitCode.FINISHED
    assert "taught by" in capsys.readouterr().err
    own = metrics(place, "narrow")[-1]["second/validation/kl"]
    assert own != metrics(place, "whole")[-1]["second/validation/kl"]


def test_folder_of_another_vocabulary_is_refused_in_words(place: Place, tmp_path: Path) -> None:
    tiny_llama(vocab_size=300).save_pretrained(tmp_path / "more")
    with pytest.raises(
        ConfigurationError,
        match=r"phases\[1\]\.objective_arguments\.teacher is '.*more', which predicts 300 tokens, "
        r"where the model of this session predicts 259",
    ):
        place.run("more", teacher(tmp_path / "more"))


def test_folder_without_an_architecture_is_refused_before_anything_runs(
    place: Place, tmp_path: Path
) -> None:
    shutil.copy(place.folder / "large" / "model.safetensors", tmp_path)
    with pytest.raises(ConfigurationError, match=r"has no config\.json with a model_type"):
        place.run("bare", teacher(tmp_path))
    assert not place.layout("bare").root.exists()


def test_phase_of_another_session_that_is_not_finished_is_refused(place: Place) -> None:
    place.run("begun", stop_at=1)
    with pytest.raises(ConfigurationError, match="names the phase first, which is not finished"):
        place.run("early", teacher("begun#first"))


def test_phase_with_another_tokenizer_is_refused(place: Place) -> None:
    tokens = ("tokenizer.special_tokens=[<a>]",)
    place.run("marked", *tokens, stop_at=4)
    with pytest.raises(ConfigurationError, match="which was trained with another tokenizer"):
        place.run("unmarked", teacher("marked#first"))


def test_folder_with_another_tokenizer_of_the_same_size_is_refused(
    place: Place, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(place.folder / "large", folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    first, second, *_ = vocabulary
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match="which was trained with another tokenizer"):
        place.run("numbers", teacher(folder))


def test_teacher_that_changed_in_between_is_refused(place: Place) -> None:
    folder = place.folder / "changing"
    shutil.copytree(place.folder / "large", folder)
    assert place.run("changed", teacher("changing"), stop_at=5).code is ExitCode.STOPPED
    file = folder / "model.safetensors"
    kept = file.read_bytes()
    tensors = load_file(file)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1e-3
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        DataError, match="The teacher of phase second is not the one that the checkpoint was wri"
    ):
        place.run("changed", teacher("changing"))
    file.write_bytes(kept)
    assert place.run("changed", teacher("changing")).code is ExitCode.FINISHED
    require_same_training(place, "changed")


def test_teacher_with_adapters_teaches_with_them_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make(tmp_path)
    place.enter(monkeypatch)
    lora = "  - {name: first, trainable: {lora: {rank: 2}}}"
    (tmp_path / "session.yaml").write_text(TEXT.replace("  - {name: first}", lora))
    assert place.run("whole").code is ExitCode.FINISHED
    export(place, "merged")
    assert place.run("folder", teacher("merged")).code is ExitCode.FINISHED
    require_same_training(place, "folder")


def test_model_of_the_hub_teaches_the_same_and_is_asked_for_before_anything_runs(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    named = teacher("hub:org/large")
    with pytest.raises(
        ConfigurationError, match=r"teacher is 'hub:org/large', which is not whole in this machine"
    ):
        place.run("hub", named)
    cached = tmp_path / "models--org--large"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("a" * 40)
    shutil.copytree(place.folder / "large", cached / "snapshots" / ("a" * 40))
    assert place.run("hub", named).code is ExitCode.FINISHED
    require_same_training(place, "hub")


def test_same_teacher_at_another_place_goes_on(place: Place) -> None:
    shutil.copytree(place.folder / "large", place.folder / "here")
    assert place.run("moved", teacher("here"), stop_at=5).code is ExitCode.STOPPED
    (place.folder / "here").rename(place.folder / "there")
    assert place.run("moved", teacher("there")).code is ExitCode.FINISHED
    require_same_training(place, "moved")


def test_finished_phase_needs_its_teacher_no_more(place: Place) -> None:
    shutil.copytree(place.folder / "large", place.folder / "gone")
    assert place.run("done", teacher("gone"), stop_at=5).code is ExitCode.STOPPED
    (place.folder / "gone").rename(place.folder / "away")
    with pytest.raises(ConfigurationError, match="is 'gone', which does not exist"):
        place.run("done", teacher("gone"))
    (place.folder / "away").rename(place.folder / "gone")
    assert place.run("done", teacher("gone")).code is ExitCode.FINISHED
    shutil.rmtree(place.folder / "gone")
    assert place.run("done", teacher("gone")).code is ExitCode.FINISHED
