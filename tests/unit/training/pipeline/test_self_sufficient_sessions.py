"""Sessions whose base model and data have moved or are gone, used from any folder."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from phaseline.cli import main
from phaseline.config.places import looking_in
from phaseline.data.tokenizer import Tokenizer
from phaseline.errors import ConfigurationError, ExitCode, PhaselineError, SessionChangedError
from phaseline.session.inputs import _files_in, load_inputs, places_of
from phaseline.session.layout import SessionLayout
from phaseline.session.records import read_records
from phaseline.session.stored_config import load_stored_config
from phaseline.training.pipeline.keeping import differences
from unit.session_place import SessionPlace
from unit.training.pipeline.adapter_session import tiny_llama

pytestmark = pytest.mark.extended("a session for each way in which its inputs move or go")

TEXT = """\
session: {name: kept, seed: 3}
model: {pretrained: models/base, attention: eager}
tokenizer: {pretrained: models/base}
defaults:
  objective: causal_lm
  data: {source: text_files, arguments: {paths: ["corpus/*.txt"]}, held_out_frac: 0.2,
         sequence_length: 16}
  batch: {global_size: 4, micro_size: 2}
  optimizer: {lr: 1e-2}
  engine: {kind: plain}
  callbacks: ["kept_callback:StopAt"]
phases:
  - {name: first, duration: 3 steps}
  - {name: second, duration: 3 steps, trainable: {lora: {rank: 2}}}
tracking: {console: "off", wandb: {mode: disabled}}
export: {phases: [second]}
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


def _refuse_network(_socket: socket.socket, address: object) -> None:
    raise AssertionError(f"a session whose model is a folder asked {address}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project: a base model with its tokenizer, a corpus, a whole session and a stopped one."""
    folder = tmp_path_factory.mktemp("kept") / "project"
    tiny_llama(vocab_size=259).save_pretrained(folder / "models" / "base")
    Tokenizer.of_bytes().save(folder / "models" / "base")
    (folder / "corpus").mkdir()
    for idx in range(20):
        words = " ".join(f"word{idx * word % 13}" for word in range(20 + idx))
        (folder / "corpus" / f"{idx:02}.txt").write_text(words, encoding="utf-8")
    with pytest.MonkeyPatch.context() as monkeypatch:
        place = enter(folder, monkeypatch)
        assert place.run("whole").code is ExitCode.FINISHED
        assert place.run_until("stopped", 2).code is ExitCode.STOPPED
    # Nothing is to be found where the sessions were started.
    return folder.rename(folder.with_name("made"))


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> SessionPlace:
    monkeypatch.setattr(socket.socket, "connect", _refuse_network)
    (folder / "session.yaml").write_text(TEXT, encoding="utf-8")
    return SessionPlace.make(
        folder, monkeypatch, module="kept_callback", code=_CALLBACK, last="second"
    )


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SessionPlace:
    """A copy of the project that took the place of the original, and a cache of its own."""
    shutil.copytree(made, tmp_path / "project")
    return enter(tmp_path / "project", monkeypatch)


def assert_as_whole(place: SessionPlace, name: str = "stopped") -> None:
    whole, found = place.weights("whole"), place.weights(name)
    assert whole.keys() == found.keys()
    assert all(torch.equal(whole[key], found[key]) for key in whole)
    assert place.metrics(name) == place.metrics("whole")


def call(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


def changes_recorded(place: SessionPlace, name: str) -> list[dict[str, Any]]:
    layout = place.layout(name)
    return [
        change
        for number in layout.attempt_numbers()
        for record in read_records(layout.attempt(number).events_file)
        if record["event"] == "settings_changed"
        for change in record["changes"]
    ]


def test_session_keeps_tokenizer_and_model_configuration_by_content(place: SessionPlace) -> None:
    layout = place.layout("stopped")
    inputs = load_inputs(layout)
    assert inputs is not None
    assert inputs.model_of == "models/base"
    assert "models/base" in inputs.paths
    base = place.folder / "models" / "base"
    kept = layout.inputs_dir / "model" / "config.json"
    assert kept.read_bytes() == (base / "config.json").read_bytes()
    tokenizer = Tokenizer.load(layout.inputs_dir / "tokenizer")
    assert tokenizer.fingerprint == inputs.tokenizer == Tokenizer.load(base).fingerprint
    assert sum(path.stat().st_size for path in layout.inputs_dir.rglob("*.*")) < 2**20


def test_session_goes_on_without_its_base_model_and_is_exported_from_any_folder(
    place: SessionPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(place.folder / "models")
    assert place.run("stopped").code is ExitCode.FINISHED
    assert_as_whole(place)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    # Nothing but the session's directory: neither its data nor what was prepared of them.
    session = place.folder.rename(tmp_path / "renamed") / "whole"
    monkeypatch.setenv("PHASELINE_CACHE", str(elsewhere / "cache"))
    assert call("export", session, "--to", "exported") == 0
    there = session / "exports" / "second"
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        assert (elsewhere / "exported" / name).read_bytes() == (there / name).read_bytes()
    assert call("sample", session, "--prompt", "word", "--max-new-tokens", "2") == 0
    assert not (elsewhere / "cache").exists()


def test_start_without_a_checkpoint_says_that_it_needs_the_base_model(place: SessionPlace) -> None:
    shutil.rmtree(place.layout("stopped").phases_dir)
    for attempt in place.layout("stopped").attempts_dir.iterdir():
        (attempt / "adopted.json").write_text(
            '{"checkpoints": [], "resumed_from": null, "committed": []}'
        )
    shutil.rmtree(place.folder / "models")
    with pytest.raises(ConfigurationError, match="its weights are still needed"):
        place.run("stopped")


def move(name: str) -> Callable[[SessionPlace], tuple[str, ...]]:
    def moving(place: SessionPlace) -> tuple[str, ...]:
        there = place.folder.parent / "new place"
        there.mkdir()
        (place.folder / name).rename(there / "moved")
        return {
            "models": (
                f"model.pretrained={there}/moved/base",
                f"tokenizer.pretrained={there}/moved/base",
            ),
            "corpus": (f"defaults.data.arguments.paths=['{there}/moved/*.txt']",),
        }[name]

    return moving


@pytest.mark.parametrize("name", ["models", "corpus"])
def test_same_contents_elsewhere_are_no_change(place: SessionPlace, name: str) -> None:
    overrides = move(name)(place)
    assert place.run("stopped", *overrides).code is ExitCode.FINISHED
    assert_as_whole(place)
    assert {change["effect"] for change in changes_recorded(place, "stopped")} == {"none"}
    # What was named at first may come back, and what is new may be asked for again.
    assert place.run("stopped", *overrides).code is ExitCode.FINISHED


def test_base_model_that_was_moved_and_then_removed_is_not_missed(place: SessionPlace) -> None:
    overrides = move("models")(place)
    assert place.run_until("stopped", 4, *overrides).code is ExitCode.STOPPED
    shutil.rmtree(place.folder.parent / "new place")
    assert place.run("stopped", *overrides).code is ExitCode.FINISHED
    assert_as_whole(place)


def test_phase_that_is_added_reads_moved_data_by_its_first_name(place: SessionPlace) -> None:
    overrides = move("corpus")(place)
    third = "  - {name: third, duration: 1 steps}\ntracking"
    text = (place.folder / "session.yaml").read_text().replace("tracking", third, 1)
    (place.folder / "session.yaml").write_text(text)
    assert place.run("stopped", *overrides).code is ExitCode.FINISHED
    stored = load_stored_config(place.layout("stopped"))
    assert [str(phase.data.sources[0].arguments["paths"]) for phase in stored.phases] == [
        "['corpus/*.txt']"
    ] * 3


def test_base_model_of_the_hub_is_not_missed_when_its_cache_is_gone(
    place: SessionPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cached = tmp_path / "hub" / "models--org--base"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("a" * 40)
    shutil.copytree(place.folder / "models" / "base", cached / "snapshots" / ("a" * 40))
    overrides = ("model.pretrained=org/base", "tokenizer.pretrained=org/base")
    assert place.run_until("of the hub", 2, *overrides).code is ExitCode.STOPPED
    shutil.rmtree(tmp_path / "hub")
    shutil.rmtree(place.folder / "cache" / "tokenizers")
    assert place.run("of the hub", *overrides).code is ExitCode.FINISHED
    assert_as_whole(place, "of the hub")
    assert call("export", place.layout("of the hub").root, "--to", tmp_path / "exported") == 0


def test_session_whose_weights_were_taken_may_move(place: SessionPlace) -> None:
    source = "phases[0].inherit.weights"
    assert place.run_until("heir", 2, f"{source}=whole#first").code is ExitCode.STOPPED
    place.layout("whole").root.rename(place.folder / "ancestor")
    with pytest.raises(SessionChangedError, match="took its weights then"):
        place.run("heir", f"{source}=ancestor#second")
    assert place.run("heir", f"{source}=ancestor#first").code is ExitCode.FINISHED


def test_other_contents_elsewhere_are_refused(place: SessionPlace) -> None:
    models, corpus = move("models")(place), place.folder / "other"
    shutil.copytree(place.folder / "corpus", corpus)
    (corpus / "00.txt").write_text("other words")
    with pytest.raises(SessionChangedError, match="is not what the session was started with"):
        place.run("stopped", *models, "defaults.data.arguments.paths=['other/*.txt']")
    base = place.folder.parent / "new place" / "moved" / "base"
    tiny_llama(seed=1, vocab_size=259).save_pretrained(base)
    with pytest.raises(SessionChangedError, match=r"--accept-change 'model\.pretrained'"):
        place.run("stopped", *models)


def test_relative_paths_begin_where_the_session_was_started(
    place: SessionPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoy = tmp_path / "elsewhere"
    shutil.copytree(place.folder / "models", decoy / "models")
    (decoy / "models" / "base" / "tokenizer.json").write_text("{}")
    (decoy / "corpus").mkdir()
    (decoy / "corpus" / "00.txt").write_text("a decoy")
    monkeypatch.chdir(decoy)
    assert place.run("stopped").code is ExitCode.FINISHED
    assert_as_whole(place)


def test_session_that_lies_elsewhere_finds_the_folder_that_it_was_started_in(
    place: SessionPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = place.layout("stopped").inputs_dir / "inputs.json"
    content = json.loads(record.read_text()) | {"session": None, "started_in": str(place.folder)}
    record.write_text(json.dumps(content))
    (tmp_path / "disk").mkdir()
    place.layout("stopped").root.rename(tmp_path / "disk" / "stopped")
    monkeypatch.chdir(tmp_path)
    assert place.run("../disk/stopped").code is ExitCode.FINISHED
    assert_as_whole(place, "../disk/stopped")


def test_project_that_was_moved_as_a_whole_finds_its_files(
    place: SessionPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved"
    place.folder.rename(moved)
    monkeypatch.chdir(tmp_path)
    there = SessionPlace(moved, place.module, "second")
    assert there.run("stopped").code is ExitCode.FINISHED
    assert_as_whole(there)


def test_model_configuration_that_is_edited_in_place_is_not_taken(place: SessionPlace) -> None:
    path = place.folder / "models" / "base" / "config.json"
    path.write_text(path.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.5'))
    assert '"rms_norm_eps": 0.5' in path.read_text()
    layout = place.layout("stopped")
    with looking_in(places_of(layout)):
        [note] = differences(load_stored_config(layout))
    assert note.startswith("models/base/config.json changed since the session began")
    assert place.run("stopped").code is ExitCode.FINISHED
    assert_as_whole(place)


def test_inputs_that_are_damaged_are_not_used_and_made_anew(
    place: SessionPlace, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = place.layout("stopped")
    (layout.inputs_dir / "tokenizer" / "tokenizer.json").write_text("{}")
    assert places_of(layout).kept_tokenizer == {}
    assert place.run("stopped").code is ExitCode.FINISHED
    assert places_of(layout).kept_tokenizer
    assert_as_whole(place)


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer/tokenizer.json", "model/config.json", ""])
def test_nothing_is_read_over_a_link_that_leads_out(
    place: SessionPlace, tmp_path: Path, name: str
) -> None:
    layout = place.layout("whole")
    kept = layout.inputs_dir / name
    kept.rename(tmp_path / "outside")
    kept.symlink_to(tmp_path / "outside")
    found = places_of(layout)
    assert not (found.kept_model if name.startswith("model") else found.kept_tokenizer)


def rewrite(layout: SessionLayout, name: str, **values: object) -> None:
    """Changes a kept file as a stranger may have, hashes and all."""
    path = layout.inputs_dir / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    record = json.loads((layout.inputs_dir / "inputs.json").read_text())
    record["files"] = {key: asdict(file) for key, file in _files_in(layout.inputs_dir).items()}
    (layout.inputs_dir / "inputs.json").write_text(json.dumps(record))


def test_kept_inputs_bring_no_code(
    place: SessionPlace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout, trace = place.layout("whole"), tmp_path / "trace"
    for part in ("tokenizer", "model"):
        (layout.inputs_dir / part / "evil.py").write_text(f"open({str(trace)!r}, 'w')\n")
    shutil.rmtree(place.folder / "models")
    mapped = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    rewrite(
        layout, "tokenizer/tokenizer_config.json", auto_map=mapped, tokenizer_class="EvilTokenizer"
    )
    assert call("sample", layout.root, "--prompt", "word", "--chat") == ExitCode.USAGE
    assert "Give --no-chat" in capsys.readouterr().err
    assert call("sample", layout.root, "--prompt", "word", "--max-new-tokens", "1") == 0
    rewrite(layout, "model/config.json", auto_map={"AutoConfig": "evil.Evil"}, model_type="evil")
    assert places_of(layout).kept_model
    assert call("export", layout.root, "--to", tmp_path / "new") == ExitCode.USAGE
    assert "model.pretrained describes no causal language model" in capsys.readouterr().err
    assert not trace.exists()


def test_session_of_an_earlier_start_keeps_its_inputs_at_the_next(place: SessionPlace) -> None:
    layout = place.layout("stopped")
    shutil.rmtree(layout.inputs_dir)
    assert place.run("stopped").code is ExitCode.FINISHED
    assert load_inputs(layout) is not None
    assert_as_whole(place)


def test_data_that_is_gone_is_named(place: SessionPlace) -> None:
    shutil.rmtree(place.folder / "corpus")
    with pytest.raises(PhaselineError, match="matches no file"):
        place.run("stopped")
    assert SessionLayout(place.folder / "stopped").session_file.is_file()


def test_data_of_a_session_are_prepared_from_any_folder_where_it_is_named(
    place: SessionPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file = place.folder / "session.yaml"
    # Its model's folder is not found, and asked for on the hub, if there is a network.
    assert call("prepare", file) != 0
    assert call("prepare", file, "--session", place.folder / "stopped") == 0
    assert call("prepare", file, "--session", place.folder / "stopped", "--preview") == 0
