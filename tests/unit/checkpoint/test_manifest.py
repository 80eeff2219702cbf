from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from phaseline.checkpoint.manifest import (
    Manifest,
    checkpoint_name,
    list_published,
    parse_name,
    verify,
)
from phaseline.errors import CheckpointError
from unit.checkpoint.made_checkpoints import make_checkpoint
from unit.covered_lines import covered


def make(folder: Path, *, step: int = 5, attempt: int = 1) -> Path:
    return make_checkpoint(
        folder, step, attempt, world_size=2, engine="zero1", committed=covered((1, 3), (2, 4))
    )


def test_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = make(tmp_path)
    manifest = verify(path)
    assert manifest == Manifest.load(path)
    assert manifest.committed == covered((1, 3), (2, 4))
    assert manifest.files["a.bin"].size == 10


def test_identity_stays_when_the_state_is_reduced_to_its_weights(tmp_path: Path) -> None:
    whole = verify(make(tmp_path))
    reduced = whole.of_weights({}, attempt=7, created=9.5)
    assert (reduced.weights_only, reduced.attempt) == (True, 7)
    assert reduced.identity == whole.identity != verify(make(tmp_path, step=6)).identity
    (tmp_path / "manifest.json").write_bytes(reduced.to_bytes())
    assert Manifest.load(tmp_path) == reduced
    assert Manifest.load(tmp_path).identity == whole.identity


def test_verify_refuses_when_a_bit_is_flipped(tmp_path: Path) -> None:
    path = make(tmp_path)
    (path / "a.bin").write_bytes(b"some bytez")
    verify(path, hashes=False)
    with pytest.raises(CheckpointError, match=r"a\.bin does not have the contents"):
        verify(path)


def test_verify_refuses_when_a_file_is_cut(tmp_path: Path) -> None:
    path = make(tmp_path)
    (path / "a.bin").write_bytes(b"some")
    with pytest.raises(CheckpointError, match=r"a\.bin has 4 bytes where 10 were written"):
        verify(path, hashes=False)


def test_verify_refuses_when_a_file_is_missing(tmp_path: Path) -> None:
    path = make(tmp_path)
    (path / "a.bin").unlink()
    with pytest.raises(CheckpointError, match=r"a\.bin is missing"):
        verify(path)


def test_load_refuses_when_the_manifest_was_changed(tmp_path: Path) -> None:
    path = make(tmp_path) / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "phase_step": 500}))
    with pytest.raises(CheckpointError, match="was changed after it was written"):
        Manifest.load(path.parent)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"digest": 1}'])
def test_load_refuses_when_the_manifest_is_torn(tmp_path: Path, text: str) -> None:
    path = make(tmp_path) / "manifest.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json (cannot be read|was changed|holds)"):
        Manifest.load(path.parent)


def test_load_refuses_when_there_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="it was never completed"):
        Manifest.load(tmp_path)


def test_names_are_fenced_by_their_attempt() -> None:
    assert parse_name(checkpoint_name(500, 12)) == (500, 12)
    early = checkpoint_name(500, 12, before_end=True)
    assert parse_name(early) == (500, 12)
    assert checkpoint_name(499, 99) < early < checkpoint_name(500, 12)
    assert parse_name(".aside-step-00000500.a0012") is None
    assert parse_name("step-500.a0012") is None


def test_list_published_sorts_by_step_then_attempt_and_leaves_out_the_unfinished(
    tmp_path: Path,
) -> None:
    paths = [make(tmp_path, step=s, attempt=a) for s, a in [(10, 1), (5, 2), (10, 2), (5, 1)]]
    (paths[0] / "manifest.json").unlink()
    (tmp_path / ".aside-step-00000099.a0001").mkdir()
    assert [path.name for path in list_published(tmp_path)] == [
        "step-00000005.a0001",
        "step-00000005.a0002",
        "step-00000010.a0002",
    ]
    assert list_published(tmp_path / "absent") == []


def test_checkpoint_under_a_name_of_its_owners_is_read_wherever_it_lies(tmp_path: Path) -> None:
    saved = make(tmp_path / "a")
    for place in (tmp_path / "mine", tmp_path / "final" / "best", tmp_path / saved.name):
        shutil.copytree(saved, place)
        assert Manifest.load(place).phase_step == 5
    renamed = tmp_path / checkpoint_name(6, 1)
    shutil.copytree(saved, renamed)
    with pytest.raises(CheckpointError, match=f"{renamed} holds step 5 .*Move it back"):
        Manifest.load(renamed)
