from __future__ import annotations

from pathlib import Path

import pytest
import torch

from phaseline.checkpoint.manifest import Manifest, list_published, verify
from phaseline.checkpoint.retention import Retention
from phaseline.checkpoint.store import CheckpointStore, Origin
from phaseline.distributed.world import World
from phaseline.errors import AnomalyError, CheckpointError, SessionBusyError
from unit.checkpoint.live_engines import at, build, save, store_in, train
from unit.covered_lines import covered


def names(folder: Path) -> list[str]:
    return [path.name for path in list_published(folder)]


def test_save_publishes_a_manifest_that_says_what_it_is(world: World, tmp_path: Path) -> None:
    engine = build(world, 1)
    report = save(store_in(tmp_path, world, attempt=4), engine, at(7, final=True), {"a": [1]})
    assert report.folder == tmp_path / "step-00000007.a0004"
    manifest = verify(report.folder)
    assert (manifest.phase, manifest.phase_step, manifest.global_step) == ("only", 7, 107)
    assert (manifest.tokens, manifest.final, manifest.attempt) == (448, True, 4)
    assert (manifest.world_size, manifest.engine, manifest.config_fingerprint) == (1, "plain", "f")
    assert manifest.committed == covered((1, 3), (2, 7))
    files = [path for path in report.folder.iterdir() if path.name != "manifest.json"]
    assert {path.name for path in files} == manifest.files.keys()
    assert report.size_bytes == sum(path.stat().st_size for path in files)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007.a0004"]


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_save_publishes_nothing_when_weights_are_not_finite(
    world: World, tmp_path: Path, poison: float
) -> None:
    engine, store = build(world, 1), store_in(tmp_path, world)
    save(store, engine, at(1), {})
    with torch.no_grad():
        engine.module.get_parameter("mix.bias")[2] = poison
    with pytest.raises(AnomalyError, match=r"mix\.bias holds weights that are not finite"):
        save(store, engine, at(2), {})
    assert names(tmp_path) == ["step-00000001.a0001"]


def test_save_publishes_nothing_when_a_part_cannot_be_written(world: World, tmp_path: Path) -> None:
    engine, store = build(world, 1), store_in(tmp_path, world)
    (tmp_path / ".aside-step-00000001.a0001").write_text("in the way")
    with pytest.raises(
        CheckpointError, match=r"No checkpoint was published at .*: rank 0: .*Errno"
    ):
        save(store, engine, at(1), {})
    assert names(tmp_path) == []


def test_save_publishes_nothing_when_the_tensors_cannot_be_written(
    world: World, tmp_path: Path
) -> None:
    # safetensors raises an exception of its own, as it does on a full disk.
    engine, store = build(world, 1), store_in(tmp_path, world)
    (tmp_path / ".aside-step-00000001.a0001" / "rank-00000.weights.safetensors").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"No checkpoint was published at .*: rank 0: "):
        save(store, engine, at(1), {})
    assert names(tmp_path) == []


@pytest.mark.parametrize(("call", "kind"), [(1, SessionBusyError), (2, CheckpointError)])
def test_save_publishes_nothing_when_the_fence_raises(
    world: World, tmp_path: Path, call: int, kind: type[Exception]
) -> None:
    calls = []

    def fence() -> None:
        calls.append(sorted(tmp_path.iterdir()))
        if len(calls) == call:
            raise SessionBusyError("Another process took over the session.")

    store = CheckpointStore(
        tmp_path,
        world,
        Origin(session="s", attempt=1, config_fingerprint="f"),
        Retention(keep_last=2),
        fence=fence,
    )
    with pytest.raises(kind, match="Another process took over the session"):
        save(store, build(world, 1), at(1), {})
    assert names(tmp_path) == []
    # It is asked before anything is written, and again before anything is published.
    assert calls[0] == []


def test_save_works_again_after_one_that_failed(world: World, tmp_path: Path) -> None:
    engine, store = build(world, 1), store_in(tmp_path, world)
    obstacle = tmp_path / ".aside-step-00000001.a0001"
    obstacle.write_text("in the way")
    with pytest.raises(CheckpointError, match="No checkpoint was published"):
        save(store, engine, at(1), {})
    obstacle.unlink()
    verify(save(store, engine, at(1), {}).folder)


def test_save_does_not_change_what_is_trained(world: World, tmp_path: Path) -> None:
    saved, other = build(world, 1), build(world, 1)
    store = store_in(tmp_path, world)
    for step in range(3):
        train(saved, range(step, step + 1))
        save(store, saved, at(step + 1), {})
    train(other, range(3))
    for name, value in other.module.state_dict().items():
        assert torch.equal(value, saved.module.state_dict()[name])


def test_rotation_keeps_the_newest(world: World, tmp_path: Path) -> None:
    engine, store = build(world, 1), store_in(tmp_path, world)
    for step in (5, 10, 15, 20):
        save(store, engine, at(step), {})
    assert names(tmp_path) == ["step-00000015.a0001", "step-00000020.a0001"]


def test_rotation_removes_adopted_ones_but_never_what_was_resumed_from_nor_what_is_not_ours(
    world: World, tmp_path: Path
) -> None:
    engine, first = build(world, 1), store_in(tmp_path, world, attempt=1)
    adopted = [save(first, engine, at(step), {}).folder for step in (5, 10)]
    save(store_in(tmp_path, world, attempt=2), engine, at(6), {})
    retention = Retention(keep_last=2, adopted=adopted, resumed_from=adopted[0])
    third = store_in(tmp_path, world, attempt=3, retention=retention)
    for step in (12, 14, 16):
        save(third, engine, at(step), {})
    assert names(tmp_path) == [
        "step-00000005.a0001",  # resumed from
        "step-00000006.a0002",  # of an attempt that nobody adopted
        "step-00000014.a0003",
        "step-00000016.a0003",
    ]


def test_rotation_never_removes_what_was_just_saved_when_older_attempts_got_further(
    world: World, tmp_path: Path
) -> None:
    engine, first = build(world, 1), store_in(tmp_path, world, attempt=1)
    adopted = [save(first, engine, at(step), {}).folder for step in (20, 30)]
    retention = Retention(keep_last=2, adopted=adopted)
    save(store_in(tmp_path, world, attempt=2, retention=retention), engine, at(5), {})
    assert "step-00000005.a0002" in names(tmp_path)


def test_store_clears_away_what_earlier_attempts_left_half_written(
    world: World, tmp_path: Path
) -> None:
    for attempt in (1, 2):
        (tmp_path / f".aside-step-00000005.a000{attempt}").mkdir()
    store_in(tmp_path, world, attempt=2)
    assert [path.name for path in tmp_path.iterdir()] == [".aside-step-00000005.a0002"]


def test_manifest_of_a_removed_checkpoint_goes_first(world: World, tmp_path: Path) -> None:
    engine, store = build(world, 1), store_in(tmp_path, world)
    folders = [save(store, engine, at(step), {}).folder for step in (1, 2, 3)]
    with pytest.raises(CheckpointError, match="it was never completed"):
        Manifest.load(folders[0])
