from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phaseline.checkpoint.manifest import Manifest
from phaseline.distributed.environment import RankEnvironment
from phaseline.errors import ExitCode, SessionChangedError, UsageError
from phaseline.session.layout import SessionLayout
from phaseline.session.records import read_records
from phaseline.training.pipeline.session_manager import OpenSession, SessionManager
from unit.checkpoint.made_checkpoints import make_checkpoint
from unit.covered_lines import covered
from unit.training.pipeline.sessions import TEXT, configure, publish

MODEL = "{model_type: llama, hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1, "
MODEL += "num_attention_heads: 2, num_key_value_heads: 2}"
SMALL = TEXT.replace("{model_type: llama}", MODEL)
_CALLBACK = """
class Stateless: pass
class Counting:
    def state_dict(self): return {}
    def load_state_dict(self, state): pass
"""


@pytest.fixture
def layout(tmp_path: Path) -> SessionLayout:
    """A session that was stopped at step 5 of its first phase."""
    layout = SessionLayout(tmp_path / "session")
    start(tmp_path, text=SMALL)
    publish(layout, "first", 5, 1)
    return layout


def open_session(
    folder: Path, *overrides: str, accept: tuple[str, ...] = (), text: str = SMALL
) -> OpenSession:
    manager = SessionManager(
        configure(folder, *overrides, text=text), RankEnvironment.read({}), accept_changes=accept
    )
    return manager.open()


def start(
    folder: Path, *overrides: str, accept: tuple[str, ...] = (), text: str = SMALL
) -> dict[str, Any]:
    """Opens and ends the session; returns its events about settings, and its notes."""
    session = open_session(folder, *overrides, accept=accept, text=text)
    session.end(ExitCode.STOPPED, "a test")
    found = {
        record["event"]: record["changes"]
        for record in read_records(session.attempt.events_file)
        if record["event"].startswith("settings_")
    }
    return {**found, "notes": session.notes}


def describe(layout: SessionLayout, name: str, content: dict[str, Any], attempt: int = 1) -> None:
    """A newer checkpoint that holds a small file of that content."""
    make_checkpoint(
        layout.phase("first").checkpoints_dir,
        6,
        attempt,
        file=name,
        content=json.dumps(content).encode(),
        phase="first",
        committed=covered((1, 0)),
    )


def test_harmless_changes_are_recorded_once_and_said_in_one_line(
    tmp_path: Path, layout: SessionLayout
) -> None:
    overrides = ("session.notes=word", "phases[0].batch.micro_size=2")
    told = start(tmp_path, *overrides)
    assert told["settings_changed"] == [
        {"path": "session.notes", "old": "", "new": "word", "effect": "none"},
        {"path": "phases[0].batch.micro_size", "old": 4, "new": 2, "effect": "rounding"},
    ]
    [note] = told["notes"]
    assert note.startswith('changed since the last start: session.notes: "" -> "word", phases[0]')
    assert note.endswith("numbers agree within rounding from here on")
    assert start(tmp_path, *overrides) == {"notes": ()}


def test_other_number_of_ranks_is_recorded_as_a_change(
    tmp_path: Path, layout: SessionLayout
) -> None:
    [path] = layout.phase("first").checkpoints_dir.glob("*/manifest.json")
    manifest = Manifest.load(path.parent)
    path.write_bytes(replace(manifest, world_size=2).to_bytes())
    told = start(tmp_path)
    assert told["settings_changed"] == [{"path": "ranks", "old": 2, "new": 1, "effect": "rounding"}]


def test_change_is_refused_with_the_line_that_it_was_written_at(
    tmp_path: Path, layout: SessionLayout
) -> None:
    text = SMALL.replace("lr: 0.01", "lr: 0.02")
    with pytest.raises(SessionChangedError, match=r"now 0\.02 \(\S*session\.yaml:6\)\n") as refusal:
        start(tmp_path, text=text)
    assert "--accept-change 'phases[0].optimizer.lr'" in str(refusal.value)
    gone = "phases[0].schedule={name: constant}"
    with pytest.raises(SessionChangedError, match=r"\(-o phases\[0\]\.schedule=\{name: constant"):
        start(tmp_path, gone)
    stored = layout.config_file.read_text()
    start(tmp_path, "phases[0].schedule.warmup=2 steps", accept=("phases[0].schedule",))
    with pytest.raises(SessionChangedError, match=r"session\.yaml:9 does not set it\); if it is"):
        start(tmp_path)
    assert layout.config_file.read_text() != stored


@pytest.mark.parametrize(
    "key", ["phases[0].optimizer.lr", "phases[0].optimizer", "phases[first].optimizer", "phases[0]"]
)
def test_accepted_change_is_recorded_and_need_not_be_accepted_again(
    tmp_path: Path, layout: SessionLayout, key: str
) -> None:
    told = start(tmp_path, "phases[0].optimizer.lr=0.5", accept=(key,))
    [change] = told["settings_accepted"]
    assert (change["path"], change["old"], change["new"]) == ("phases[0].optimizer.lr", 0.01, 0.5)
    assert told["notes"] == ("changes accepted: phases[0].optimizer.lr: 0.01 -> 0.5",)
    assert start(tmp_path, "phases[0].optimizer.lr=0.5") == {"notes": ()}
    # One command for every start: it may still say so.
    assert start(tmp_path, "phases[0].optimizer.lr=0.5", accept=(key,)) == {"notes": ()}


def test_nothing_is_stored_when_one_of_several_changes_is_not_accepted(
    tmp_path: Path, layout: SessionLayout
) -> None:
    stored = layout.config_file.read_text()
    overrides = ("phases[0].optimizer.lr=0.5", "phases[0].optimizer.weight_decay=0")
    with pytest.raises(SessionChangedError, match=r"other settings:\n  phases\[0\]\.optimizer\.w"):
        start(tmp_path, *overrides, accept=("phases[0].optimizer.lr",))
    assert layout.config_file.read_text() == stored


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "phases[0].optimizer.l",
            r"names phases\[0\]\.optimizer\.l, where no change is refused\. ",
        ),
        (
            "session.notes",
            r"names session\.notes, which needs no acceptance\. What may be accepted",
        ),
    ],
)
def test_key_that_matches_no_refused_change_is_an_error(
    tmp_path: Path, layout: SessionLayout, key: str, message: str
) -> None:
    overrides = ("phases[0].optimizer.lr=0.5", "session.notes=word")
    with pytest.raises(UsageError, match=message) as refusal:
        start(tmp_path, *overrides, accept=("phases[0].optimizer", key))
    assert str(refusal.value).endswith("is phases[0].optimizer.lr.")


def test_key_is_an_error_when_there_is_no_session_yet(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no session at"):
        start(tmp_path, accept=("phases[0].optimizer",))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("phases[0].duration=4 steps", "the phase would have 4 steps, and 5 are done"),
        ("phases[0].duration=500 tokens", "the phase would have 4 steps, and 5 are done"),
        ("phases[0].data.held_out_frac=0.3", "belong to the data that they were trained on"),
        ("session.seed=8", "decides which documents are held out"),
    ],
)
def test_change_that_nothing_saved_goes_with_is_refused_with_its_reason(
    tmp_path: Path, layout: SessionLayout, override: str, message: str
) -> None:
    key = override.partition("=")[0]
    with pytest.raises(SessionChangedError, match=f"this cannot be accepted: .*{message}"):
        start(tmp_path, override, accept=(key,))


def test_shorter_phase_is_accepted_when_it_is_not_over(
    tmp_path: Path, layout: SessionLayout
) -> None:
    told = start(tmp_path, "phases[0].duration=5 steps", accept=("phases[0].duration",))
    assert [change["path"] for change in told["settings_accepted"]] == ["phases[0].duration"]


def test_other_model_is_refused_when_its_parameters_are_others(
    tmp_path: Path, layout: SessionLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from phaseline.training.pipeline.saved_state import _shapes_of

    monkeypatch.setenv("PHASELINE_CACHE", str(tmp_path / "cache"))
    shapes = _shapes_of(configure(tmp_path, text=SMALL).config, "causal_lm")
    parameters = {name: {"shape": shape, "trainable": True} for name, shape in shapes.items()}
    describe(layout, "model.json", {"parameters": parameters})
    with pytest.raises(SessionChangedError, match=r"of another model .*would be") as refusal:
        start(tmp_path, "model.config.hidden_size=16")
    assert "--accept-change" not in str(refusal.value)
    with pytest.raises(SessionChangedError, match=r"--accept-change 'model\.config\.attention_d"):
        start(tmp_path, "model.config.attention_dropout=0.5")
    told = start(tmp_path, "model.config.attention_dropout=0.5", accept=("model",))
    assert len(told["settings_accepted"]) == 1


def test_objective_with_another_head_is_refused(tmp_path: Path) -> None:
    rows = SMALL.replace("python_stdlib", "files, arguments: {paths: [rows.jsonl]}")
    start(tmp_path, text=rows)
    publish(SessionLayout(tmp_path / "session"), "first", 5, 1)
    changed = rows.replace("objective: causal_lm", "objective: reward_model")
    with pytest.raises(SessionChangedError, match="of a model that ends in another head"):
        start(tmp_path, text=changed, accept=("phases[0].objective",))


def test_acceptance_with_a_value_is_of_that_value_alone(
    tmp_path: Path, layout: SessionLayout
) -> None:
    key = "phases[first].optimizer.lr=5e-1"
    with pytest.raises(SessionChangedError, match=r"is now 0\.4"):
        start(tmp_path, "phases[0].optimizer.lr=0.4", accept=(key,))
    told = start(tmp_path, "phases[0].optimizer.lr=0.5", accept=(key,))
    assert [change["new"] for change in told["settings_accepted"]] == [0.5]
    assert start(tmp_path, "phases[0].optimizer.lr=0.5", accept=(key,)) == {"notes": ()}
    with pytest.raises(UsageError, match=r"names phases\[0\]\.rate=1, where no change is refused"):
        start(tmp_path, "phases[0].optimizer.lr=0.5", accept=("phases[0].rate=1",))


def test_thawing_is_refused_and_freezing_accepted(tmp_path: Path, layout: SessionLayout) -> None:
    records = {
        "embed": {"shape": [1], "trainable": False},
        "head": {"shape": [1], "trainable": True},
    }
    describe(layout, "model.json", {"parameters": records})
    with pytest.raises(SessionChangedError, match="it would train embed, for which the checkp"):
        start(tmp_path, "phases[0].trainable.freeze=[head]")
    freeze = "phases[0].trainable.freeze=[head, embed]"
    told = start(tmp_path, freeze, accept=("phases[0].trainable",))
    assert told["settings_accepted"]


@pytest.mark.parametrize(
    "content", [{"parameters": []}, {"parameters": {"head": 1}}, {"parameters": {"head": {}}}]
)
def test_change_is_judged_also_where_the_disk_damaged_what_the_checkpoint_says(
    tmp_path: Path, layout: SessionLayout, content: dict[str, Any]
) -> None:
    describe(layout, "model.json", content)
    changes = ["phases[0].trainable.freeze=[head]", "model.config.rope_theta=5.0"]
    accept = ("phases[0].trainable", "model")
    assert start(tmp_path, *changes, accept=accept)["settings_accepted"]


@pytest.mark.parametrize("content", [{"stateful": []}, {"stateful": 1}])
def test_callbacks_are_judged_also_where_the_disk_damaged_their_states(
    tmp_path: Path, layout: SessionLayout, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "damaged_callbacks.py").write_text(_CALLBACK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "damaged_callbacks", raising=False)
    describe(layout, "state.json", content)
    added = "phases[0].callbacks=['damaged_callbacks:Stateless']"
    assert start(tmp_path, added, accept=("phases[0].callbacks",))["settings_accepted"]
    describe(layout, "state.json", content, attempt=2)
    assert start(tmp_path, accept=("phases[0].callbacks",))["settings_accepted"]


def test_callbacks_are_refused_when_a_state_would_be_lost(
    tmp_path: Path, layout: SessionLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "changing_callbacks.py").write_text(_CALLBACK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "changing_callbacks", raising=False)
    counting, stateless = "changing_callbacks:Counting", "changing_callbacks:Stateless"
    with pytest.raises(SessionChangedError, match="Counting keeps a state, which the checkpoint"):
        start(tmp_path, f"phases[0].callbacks=[{counting}]")
    added = f"phases[0].callbacks=[{stateless}]"
    assert start(tmp_path, added, accept=("phases[0].callbacks",))["settings_accepted"]
    describe(layout, "state.json", {"stateful": {f"callback {stateless}": {}}}, attempt=2)
    with pytest.raises(SessionChangedError, match="a state of changing_callbacks:Stateless, which"):
        start(tmp_path)
