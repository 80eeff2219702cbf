from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from phaseline.checkpoint.foreign import find_weights
from phaseline.checkpoint.foreign_checks import inherited_weights_can_be_read
from phaseline.checkpoint.tensor_files import UnusableWeightsError
from phaseline.config.loading import load_config
from phaseline.errors import ConfigurationError
from phaseline.session.attempts import Adopted, take_attempt, write_adopted
from phaseline.session.files import write_json
from phaseline.session.layout import SessionLayout
from unit.checkpoint.made_checkpoints import make_checkpoint
from unit.config.session_text import VALID, write


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def publish(layout: SessionLayout, phase: str, *, final: bool) -> Path:
    """A checkpoint that verifies, of the session's first attempt."""
    return make_checkpoint(layout.phase(phase).checkpoints_dir, 7, phase=phase, final=final)


@pytest.fixture
def layout(folder: Path) -> SessionLayout:
    """A session whose first phase is finished, and its second under way."""
    layout = SessionLayout(Path("other"))
    write_adopted(take_attempt(layout), Adopted((), None, ()))
    write_json(layout.session_file, {})
    publish(layout, "first", final=True)
    publish(layout, "second", final=False)
    return layout


def test_session_gives_the_last_checkpoint_of_a_finished_phase(layout: SessionLayout) -> None:
    found = find_weights("other#first", hashes=True)
    assert found.checkpoint is not None
    assert found.checkpoint.name == "step-00000007.a0001"
    assert found.kind == "checkpoint of first at step 7"
    assert find_weights(str(found.checkpoint)).signature == found.signature


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("other", r"several phases to start from\. Write other#first\."),
        ("other#second", r"names the phase second, which is not finished\. Write other#first\."),
        ("other#third", "which is not among its phases that have begun"),
        ("elsewhere#first", "does not exist; it must be previous, fresh, pretrained, phase:NAME"),
        ("folder#first", "names the phase first of folder, which is no session directory"),
        ("folder", "is a folder without weights"),
        ("previos", r"does not exist; .*\. Did you mean previous\?"),
        (
            "other/phases/first/run-1/checkpoints/step-00000007.a0001/a.bin",
            r"is one rank's part of a checkpoint\. Name its folder, other/.*a0001\.",
        ),
        ("notes.txt", r"is notes\.txt, a file of no known kind"),
    ],
)
def test_find_weights_says_what_is_wrong_and_what_would_do(
    layout: SessionLayout, text: str, message: str
) -> None:
    Path("folder").mkdir()
    Path("notes.txt").touch()
    with pytest.raises(UnusableWeightsError, match=message):
        find_weights(text)


def test_checkpoint_is_refused_when_it_does_not_verify(layout: SessionLayout) -> None:
    [path] = layout.phases_dir.glob("first/*/*/*/a.bin")
    path.write_bytes(b"other byte")
    assert find_weights("other#first").checkpoint is not None
    with pytest.raises(UnusableWeightsError, match=r"does not verify \(.*a\.bin does not have"):
        find_weights("other#first", hashes=True)
    path.unlink()
    with pytest.raises(UnusableWeightsError, match=r"does not verify \(.*a\.bin is missing"):
        find_weights("other#first")


def test_checkpoint_is_passed_over_when_the_session_does_not_trust_it(
    layout: SessionLayout,
) -> None:
    [late] = layout.phases_dir.glob("first/*/*/step-*")
    late.rename(late.with_name("step-00000009.a0000"))
    with pytest.raises(UnusableWeightsError, match="not among its phases that have begun"):
        find_weights("other#first")


def test_fingerprint_names_the_content_of_all_files(folder: Path) -> None:
    path = folder / "one.safetensors"
    save_file({"a": np.zeros(3, np.float32)}, path)
    before = find_weights("one.safetensors")
    assert before.kind == "safetensors file"
    name = before.fingerprint()
    assert find_weights("one.safetensors").fingerprint() == name
    save_file({"a": np.ones(3, np.float32)}, path)
    after = find_weights("one.safetensors")
    # Ranks compare what costs nothing to read, the record holds what was taken.
    assert after.signature == before.signature
    assert after.fingerprint() != name
    save_file({"a": np.zeros((3, 1), np.float32)}, path)
    assert find_weights("one.safetensors").signature != before.signature


def load(folder: Path, weights: str) -> None:
    text = VALID.replace("defaults:\n", f"defaults:\n  inherit: {{weights: {weights}}}\n")
    path = write(
        folder,
        text.replace(
            "model_type: llama", "model_type: llama, hidden_size: 8, num_attention_heads: 2"
        ),
    )
    load_config(path, rules=[inherited_weights_can_be_read(None)])


def test_rule_refuses_another_architecture_when_it_shows_in_no_shape(folder: Path) -> None:
    Path("hf").mkdir()
    save_file({"a": np.zeros(3, np.float32)}, "hf/model.safetensors")
    Path("hf/config.json").write_text(json.dumps({"model_type": "qwen2", "hidden_size": 8}))
    with pytest.raises(ConfigurationError, match=r"has model_type qwen2, but model\.config says"):
        load(folder, "hf")
    Path("hf/config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 9}))
    load(folder, "hf")


def test_rule_says_once_what_is_wrong_with_a_default(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="1 fault in the configuration") as refusal:
        load(folder, "gone")
    assert "defaults.inherit.weights is 'gone', which does not exist" in str(refusal.value)
    assert "session.yaml:6" in str(refusal.value)


def test_rule_asks_for_nothing_when_the_phase_has_a_checkpoint_of_its_own(folder: Path) -> None:
    for phase in ("first", "second"):
        publish(SessionLayout(Path("runs/test")), phase, final=False)
    load(folder, "gone")
