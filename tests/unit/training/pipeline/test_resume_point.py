from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from phaseline.checkpoint import manifest
from phaseline.checkpoint.manifest import list_kept, list_published
from phaseline.errors import CheckpointFormatError, CheckpointUnreachableError, ExitCode
from phaseline.session.layout import SessionLayout
from phaseline.training.pipeline.resume_point import (
    ResumePoint,
    find_headless,
    newest_verified,
    set_aside,
)
from unit.checkpoint.made_checkpoints import make_checkpoint

PHASES = ["first", "second"]


@pytest.fixture
def layout(tmp_path: Path) -> SessionLayout:
    return SessionLayout(tmp_path / "session")


def publish(layout: SessionLayout, phase: str, step: int, **facts: Any) -> Path:
    return make_checkpoint(layout.phase(phase).checkpoints_dir, step, phase=phase, **facts)


def test_newest_verified_goes_by_phase_before_step(layout: SessionLayout) -> None:
    folders = [publish(layout, "first", 900), publish(layout, "second", 3)]
    folders.append(publish(layout, "gone", 5))
    point, rejected = newest_verified(folders, PHASES, "s")
    assert point is not None
    assert point.folder == folders[1]
    assert rejected == []


def test_newest_verified_takes_the_one_before_and_names_what_is_bad(layout: SessionLayout) -> None:
    folders = [publish(layout, "second", step) for step in (3, 5)]
    (folders[1] / "a.bin").unlink()
    point, rejected = newest_verified(folders, PHASES, "s")
    assert point is not None
    assert point.folder == folders[0]
    assert [one.folder for one in rejected] == [folders[1]]
    assert "a.bin is missing" in rejected[0].problem


def test_newest_verified_reads_no_older_ones_than_it_needs(layout: SessionLayout) -> None:
    folders = [publish(layout, "second", step) for step in (3, 5)]
    (folders[0] / "a.bin").unlink()
    point, rejected = newest_verified(folders, PHASES, "s")
    assert point is not None
    assert rejected == []


def test_newest_verified_prefers_the_whole_one_of_equals(layout: SessionLayout) -> None:
    weights = make_checkpoint(
        layout.phase("first").final_dir, 5, 2, phase="first", final=True, weights_only=True
    )
    whole = publish(layout, "first", 5, final=True)
    point, _ = newest_verified([whole, weights], PHASES, "s")
    assert point is not None
    assert point.folder == whole


def test_newest_verified_prefers_a_finished_phase_to_one_that_was_stopped_at_its_last_step(
    layout: SessionLayout,
) -> None:
    stopped = publish(layout, "first", 5)
    finished = make_checkpoint(
        layout.phase("first").final_dir, 5, 2, phase="first", final=True, weights_only=True
    )
    point, _ = newest_verified([stopped, finished], PHASES, "s")
    assert point is not None
    assert point.folder == finished
    assert list_kept(layout.phase("first")) == [stopped, finished]


def test_checkpoint_of_another_session_is_left_out_and_stays_where_it_is(
    layout: SessionLayout,
) -> None:
    ours = publish(layout, "first", 5)
    foreign = publish(layout, "first", 900, session="other")
    point, rejected = newest_verified([ours, foreign], PHASES, "s")
    assert point is not None
    assert point.folder == ours
    done = set_aside(rejected[0], point, PHASES)
    assert done.moved_to is None
    assert foreign.is_dir()
    assert "belongs to another session" in str(done)


def test_checkpoints_of_another_format_are_refused_and_stay_where_they_are(
    layout: SessionLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = publish(layout, "first", 3)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "FORMAT", manifest.FORMAT + 1)
        newer = publish(layout, "first", 5)
        foreign = publish(layout, "first", 9, session="other")
    message = f"has format {manifest.FORMAT + 1}; this version reads {manifest.FORMAT}. Use the"
    with pytest.raises(CheckpointFormatError, match=message) as caught:
        newest_verified([ours, newer], PHASES, "s")
    assert caught.value.exit_code is ExitCode.USAGE
    point, rejected = newest_verified([ours, foreign], PHASES, "s")
    assert point is not None
    assert point.folder == ours
    assert [one.is_ours for one in rejected] == [False]


@pytest.mark.parametrize("name", ["a.bin", manifest.MANIFEST_NAME])
def test_nothing_is_passed_over_when_a_file_server_is_away(
    layout: SessionLayout, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [publish(layout, "second", step) for step in (3, 5)]
    open_file, away = Path.open, folders[1] / name

    def open_or_fail(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path == away:
            raise OSError(errno.ESTALE, "Stale file handle")
        return open_file(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_or_fail)
    with pytest.raises(CheckpointUnreachableError, match=rf"{name} cannot be read: .*Stale"):
        newest_verified(folders, PHASES, "s")
    assert folders[1].exists()


def test_damaged_checkpoint_is_renamed_with_what_is_wrong_and_how_much_is_lost(
    layout: SessionLayout,
) -> None:
    folders = [publish(layout, "second", step) for step in (30, 50)]
    (folders[1] / "a.bin").write_bytes(b"some bytez")
    point, rejected = newest_verified(folders, PHASES, "s")
    done = set_aside(rejected[0], point, PHASES)
    assert done.moved_to == "damaged-step-00000050.a0001"
    assert done.steps_lost == 20
    moved = folders[1].with_name(done.moved_to)
    assert (moved / "a.bin").read_bytes() == b"some bytez"
    assert (
        "does not have the contents" in json.loads((moved / "damage.json").read_bytes())["problem"]
    )
    assert list_published(folders[1].parent) == [folders[0]]
    assert list_kept(layout.phase("second")) == [folders[0]]
    assert "20 step(s) are trained once more" in str(done)


def test_second_damage_of_the_same_name_takes_another(layout: SessionLayout) -> None:
    for name in ("damaged-step-00000050.a0001", "damaged-step-00000050.a0001.2"):
        folder = publish(layout, "second", 50)
        (folder / "a.bin").unlink()
        _, rejected = newest_verified([folder], PHASES, "s")
        done = set_aside(rejected[0], None, PHASES)
        assert done.moved_to == name
        assert done.steps_lost == 50


def test_steps_of_a_phase_that_is_done_are_not_called_lost(layout: SessionLayout) -> None:
    whole = publish(layout, "first", 10, final=True)
    older = publish(layout, "first", 5)
    newest = publish(layout, "second", 3, global_step=13)
    (older / "manifest.json").write_text("{")
    point, [one] = newest_verified([whole, older, newest], PHASES, "s")
    assert point is not None
    done = set_aside(one, point, PHASES)
    assert done.steps_lost == 0
    assert "trained once more" not in str(done)


def test_steps_lost_go_over_the_phases_between(layout: SessionLayout) -> None:
    older = publish(layout, "first", 6)
    newest = publish(layout, "second", 3, global_step=13)
    (newest / "a.bin").unlink()
    point, [one] = newest_verified([older, newest], PHASES, "s")
    assert set_aside(one, point, PHASES).steps_lost == 7


def test_checkpoint_that_lost_its_manifest_is_put_aside_with_what_is_lost(
    layout: SessionLayout,
) -> None:
    point = ResumePoint.at(publish(layout, "second", 30))
    folder = publish(layout, "second", 50)
    (folder / "manifest.json").unlink()
    layout.phase("first").checkpoints_dir.joinpath("step-00000099.a0001").mkdir(parents=True)
    [one] = find_headless(layout)
    done = set_aside(one, point, PHASES)
    assert (done.moved_to, done.steps_lost) == ("damaged-step-00000050.a0001", 20)
    assert "step-00000050.a0001 has no manifest.json: somebody or the disk" in str(done)
    assert find_headless(layout) == []


def test_session_goes_on_when_a_damaged_checkpoint_cannot_be_renamed(
    layout: SessionLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish(layout, "second", 50)
    (folder / "a.bin").unlink()
    _, rejected = newest_verified([folder], PHASES, "s")

    def refuse(_self: Path, _target: Path) -> None:
        raise OSError("read-only file system")

    monkeypatch.setattr(Path, "rename", refuse)
    done = set_aside(rejected[0], None, PHASES)
    assert done.moved_to is None
    assert folder.is_dir()
