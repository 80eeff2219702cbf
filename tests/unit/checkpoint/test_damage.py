"""Every kind of damage to every kind of file: it is named, and the checkpoint before is taken."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from phaseline.checkpoint.manifest import list_published, verify
from phaseline.checkpoint.retention import Retention
from phaseline.distributed.world import World
from phaseline.errors import CheckpointError
from phaseline.training.pipeline.resume_point import newest_verified
from unit.checkpoint.live_engines import at, build, save, store_in, train
from unit.checkpoint.made_checkpoints import make_checkpoint

FILES = [
    "rank-00000.weights.safetensors",
    "rank-00000.optimizer.safetensors",
    "rank-00000.json",
    "model.json",
    "state.json",
    "manifest.json",
]


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped": (flip_a_bit, "does not have the contents that were written"),
    "cut": (cut, r"has \d+ bytes where \d+ were written"),
    "empty": (empty, r"has 0 bytes where \d+ were written"),
    "missing": (Path.unlink, r"is missing\. Use another checkpoint"),
}
OF_THE_MANIFEST = {
    "flipped": "(cannot be read|was changed after it was written)",
    "cut": "cannot be read",
    "empty": "cannot be read",
    "missing": "has no manifest.json: it was never completed, or has lost it",
}


@pytest.fixture
def two(world: World, tmp_path: Path) -> list[Path]:
    """Two checkpoints of a phase, the older first."""
    engine, store = build(world, 1), store_in(tmp_path, world)
    folders = []
    for step in (1, 2):
        train(engine, range(step - 1, step))
        folders.append(save(store, engine, at(step), {"stateful": {}}).folder)
    return folders


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_named_and_the_one_before_is_taken(
    two: list[Path], name: str, damage: str
) -> None:
    older, newer = two
    change, message = DAMAGES[damage]
    if name == "manifest.json":
        message = OF_THE_MANIFEST[damage]
    change(newer / name)
    with pytest.raises(CheckpointError, match=message):
        verify(newer)
    point, _ = newest_verified(list_published(older.parent), ["only"], "s")
    assert point is not None
    assert point.folder == older


def test_folders_that_are_no_checkpoints_are_passed_over(two: list[Path]) -> None:
    older, newer = two
    (older.parent / "step-00000099.a0001").mkdir()
    (older.parent / "step-00000098.a0001").write_text("a file")
    shutil.copytree(newer, older.parent / "step-00000097")
    shutil.copytree(newer, older.parent / "copy of step-00000097.a0001")
    point, rejected = newest_verified(list_published(older.parent), ["only"], "s")
    assert point is not None
    assert point.folder == newer
    assert rejected == []


def test_higher_step_of_an_older_run_is_not_gone_on_from(two: list[Path]) -> None:
    old_run = make_checkpoint(two[0].parent, 900, session="another")
    point, rejected = newest_verified(list_published(two[0].parent), ["only"], "s")
    assert point is not None
    assert point.folder == two[1]
    [one] = rejected
    assert one.folder == old_run
    assert "belongs to another session and was copied here" in one.problem


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs `mount`, and the privilege to use it")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_is_told_and_what_was_saved_stays(world: World, small_disk: Path) -> None:
    engine = build(world, 1)
    store = store_in(small_disk / "checkpoints", world, retention=Retention(keep_last=99))
    saved: list[Path] = []

    def fill() -> None:
        for step in range(1, 200):
            train(engine, range(step - 1, step))
            saved.append(save(store, engine, at(step), {}).folder)

    with pytest.raises(CheckpointError, match=r"No checkpoint was published at .*No space left"):
        fill()
    assert len(saved) >= 2
    for folder in saved:
        verify(folder)
    assert not list((small_disk / "checkpoints").glob(".aside-*"))
    # With room again the same process goes on.
    shutil.rmtree(saved[0])
    train(engine, range(500, 501))
    verify(save(store, engine, at(500), {}).folder)


def test_read_only_file_system_is_told(world: World, small_disk: Path) -> None:
    engine, store = build(world, 1), store_in(small_disk / "checkpoints", world)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(CheckpointError, match=r"rank 0: .*Read-only file system"):
        save(store, engine, at(1), {})
