"""What goes on behind the loop, and what the loop waits for."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from phaseline.checkpoint.disk import Disk
from phaseline.checkpoint.manifest import list_published
from phaseline.checkpoint.reader import CheckpointReader, load_engine
from phaseline.checkpoint.retention import Retention
from phaseline.checkpoint.store import CheckpointStore, Origin
from phaseline.checkpoint.writer import RankSnapshot
from phaseline.distributed.engines import Engine
from phaseline.distributed.world import World
from phaseline.errors import CheckpointError, LostRankError
from unit.checkpoint.live_engines import at, build, require_equal, save, store_in, train


class Gate(Disk):
    """Writes nothing before it is opened."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def open(self, path: Path) -> int:
        assert self.gate.wait(30)
        return super().open(path)


def gated(folder: Path, world: World, disk: Disk, *, max_in_memory: int = 1) -> CheckpointStore:
    return CheckpointStore(
        folder,
        world,
        Origin(session="s", attempt=1, config_fingerprint="f"),
        Retention(keep_last=9),
        fence=lambda: None,
        max_in_memory=max_in_memory,
        disk=disk,
        timeout_s=5,
    )


def _threads() -> list[threading.Thread]:
    return threading.enumerate()


def test_checkpoint_holds_the_step_that_was_saved_while_training_went_on(
    world: World, tmp_path: Path
) -> None:
    engine, disk = build(world, 1), Gate()
    store = gated(tmp_path, world, disk)
    train(engine, range(2))
    store.save(engine, at(2), {})
    train(engine, range(2, 5))
    assert store.collect() == []
    assert list_published(tmp_path) == []
    disk.gate.set()
    [report] = store.wait()
    resumed, expected = build(world, 9), build(world, 1)
    with CheckpointReader(report.folder) as reader:
        load_engine(reader, resumed, dp_rank=0)
    train(expected, range(2))
    require_equal(resumed, expected)


def test_loop_waits_for_room_when_as_many_copies_are_in_memory_as_may_be(
    world: World, tmp_path: Path
) -> None:
    engine, disk = build(world, 1), Gate()
    store = gated(tmp_path, world, disk, max_in_memory=2)
    for step in (1, 2):
        train(engine, range(step, step + 1))
        store.save(engine, at(step), {})
    third = threading.Thread(target=store.save, args=(engine, at(3), {}))
    third.start()
    time.sleep(0.2)
    assert third.is_alive()
    disk.gate.set()
    third.join(30)
    reports = store.wait()
    assert [report.position.phase_step for report in reports] == [1, 2, 3]
    assert reports[2].stall_s >= 0.1
    assert [path.name[:13] for path in list_published(tmp_path)] == [
        "step-00000001",
        "step-00000002",
        "step-00000003",
    ]


def test_failure_surfaces_where_the_loop_looks_next(world: World, tmp_path: Path) -> None:
    engine, store = build(world, 1), store_in(tmp_path, world)
    (tmp_path / ".aside-step-00000001.a0001").write_text("in the way")
    store.save(engine, at(1), {})
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(t.name.startswith("save ") for t in _threads()):
        time.sleep(0.01)
    with pytest.raises(CheckpointError, match="No checkpoint was published"):
        store.collect()


def test_step_is_saved_once_when_it_is_asked_for_twice(world: World, tmp_path: Path) -> None:
    engine, store = build(world, 1), store_in(tmp_path, world)
    store.save(engine, at(1), {})
    store.save(engine, at(1), {})
    assert len(store.wait()) == 1


def test_save_that_waits_for_a_rank_ends_when_this_one_gives_up(
    world: World, tmp_path: Path
) -> None:
    engine = build(world, 1)
    # A second rank that never comes.
    world.dp_world_size = 2
    store = CheckpointStore(
        tmp_path,
        world,
        Origin(session="s", attempt=1, config_fingerprint="f"),
        Retention(keep_last=2),
        fence=lambda: None,
    )
    store.save(engine, at(1), {})
    began = time.monotonic()
    store.abandon()
    assert time.monotonic() - began < 60
    assert list_published(tmp_path) == []
    assert not [t for t in _threads() if t.name.startswith("save ")]


def test_rank_that_never_comes_is_named_as_the_cause(world: World, tmp_path: Path) -> None:
    engine = build(world, 1)
    world.dp_world_size = 2
    store = CheckpointStore(
        tmp_path,
        world,
        Origin(session="s", attempt=1, config_fingerprint="f"),
        Retention(keep_last=2),
        fence=lambda: None,
        timeout_s=0.1,
    )
    with pytest.raises(LostRankError, match=r"Rank 0 waited 0\.1 s for the value 'save/.*/1'"):
        save(store, engine, at(1), {})


def test_report_says_what_the_save_cost(world: World, tmp_path: Path) -> None:
    report = save(store_in(tmp_path, world), build(world, 1), at(1), {})
    on_disk = sum(p.stat().st_size for p in report.folder.iterdir() if p.name != "manifest.json")
    assert report.size_bytes == on_disk
    assert report.stall_s > 0
    assert 0 < report.stall_frac <= 1
    assert report.duration_s > 0


def test_duration_of_a_save_begins_with_the_copy(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = RankSnapshot.take

    def take_slowly(snapshot: RankSnapshot, engine: Engine, **ranks: int) -> None:
        time.sleep(0.2)
        take(snapshot, engine, **ranks)

    monkeypatch.setattr(RankSnapshot, "take", take_slowly)
    report = save(store_in(tmp_path, world), build(world, 1), at(1), {})
    assert report.duration_s >= 0.2
    assert report.stall_s >= 0.2
