"""Every file operation of a save once as the last of its process, and once as one that fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from phaseline.checkpoint.disk import Disk
from phaseline.checkpoint.manifest import list_published, verify
from phaseline.checkpoint.reader import CheckpointReader, load_engine
from phaseline.checkpoint.retention import Retention
from phaseline.distributed.engines import Engine
from phaseline.distributed.world import World
from phaseline.errors import CheckpointError
from phaseline.training.pipeline.resume_point import newest_verified
from unit.checkpoint.dying_saves import FATAL_STEP, SAFE_STEP
from unit.checkpoint.faulty_disk import DEATH, FaultyDisk
from unit.checkpoint.live_engines import at, build, require_equal, save, store_in, train

TESTS = Path(__file__).parents[2]
FILES = [
    "rank-00000.weights.safetensors",
    "rank-00000.optimizer.safetensors",
    "rank-00000.json",
    "model.json",
    "state.json",
    "manifest.json",
]


def expected(world: World, step: int) -> Engine:
    engine = build(world, 1)
    train(engine, range(step))
    return engine


def resumed(world: World, folder: Path) -> Engine:
    engine = build(world, 9)
    with CheckpointReader(folder) as reader:
        load_engine(reader, engine, dp_rank=0)
    return engine


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    folder = tmp_path_factory.mktemp("deaths")
    done = subprocess.run(
        [sys.executable, "-m", "unit.checkpoint.dying_saves", str(folder)],
        cwd=TESTS,
        check=True,
        capture_output=True,
        text=True,
        timeout=200,
    )
    return folder, [line.split(" ", 2) for line in done.stdout.splitlines()]


@pytest.mark.extended("a save dies once at each of its operations")
def test_a_save_is_resumed_whole_or_the_one_before_whatever_operation_was_the_last(
    deaths: tuple[Path, list[list[str]]], world: World
) -> None:
    root, lines = deaths
    assert {code for _, code, _ in lines} == {str(DEATH)}
    operations = [operation for _, _, operation in lines]
    rename = operations.index(f"rename to step-{FATAL_STEP:08d}.a0001")
    whole = {step: expected(world, step) for step in (SAFE_STEP, FATAL_STEP)}
    for idx, (number, _, operation) in enumerate(lines):
        only = root / number / "only"
        point, rejected = newest_verified(list_published(only), ["only"], "s")
        assert point is not None, operation
        step = SAFE_STEP if idx <= rename else FATAL_STEP
        assert point.manifest.phase_step == step, operation
        assert rejected == [], operation
        require_equal(resumed(world, point.folder), whole[step])
    for name in FILES:
        for kind in ("open", "opened", "write", "written half of", "flush"):
            assert f"{kind} {name}" in operations


@pytest.mark.extended("a save dies once at each of its operations")
def test_the_next_attempt_saves_and_tidies_up_whatever_operation_was_the_last(
    deaths: tuple[Path, list[list[str]]], world: World
) -> None:
    root, lines = deaths
    for number, _, operation in lines:
        folder = root / number
        only, before, final = folder / "only", folder / "before", folder / "before_final"
        adopted = [*list_published(only), *list_published(before), *list_published(final)]
        retention = Retention(keep_last=2, adopted=adopted, finished=[(before, final)])
        store = store_in(only, world, attempt=2, retention=retention)
        verify(save(store, expected(world, 4), at(4), {}).folder)
        assert not list(folder.rglob(".aside-*")), operation
        [reduced] = list_published(final)
        assert verify(reduced).weights_only
        assert list_published(before) == [], operation
        assert len(list_published(only)) == 2, operation


def test_a_failed_operation_is_told_and_the_next_save_works(world: World, tmp_path: Path) -> None:
    engine = expected(world, 3)
    rehearsal = FaultyDisk()
    save(store_in(tmp_path / "rehearsal", world, disk=rehearsal), engine, at(3), {})
    rename = rehearsal.operations.index("rename to step-00000003.a0001")
    for idx, operation in enumerate(rehearsal.operations):
        folder = tmp_path / f"{idx}"
        store = store_in(folder, world, disk=FaultyDisk(idx))
        with pytest.raises(CheckpointError, match=r"No checkpoint was published at .*No space"):
            save(store, engine, at(3), {})
        assert len(list_published(folder)) == int(idx > rename), operation
        assert not list(folder.glob(".aside-*")), operation
        verify(save(store, engine, at(4), {}).folder)


def test_what_is_published_stays_published_when_older_ones_cannot_be_removed(
    world: World, tmp_path: Path
) -> None:
    class Stubborn(Disk):
        def remove(self, folder: Path) -> None:
            raise PermissionError(f"{folder.name} may not be removed")

    engine, store = expected(world, 3), store_in(tmp_path, world, disk=Stubborn())
    reports = [save(store, engine, at(step), {}) for step in (3, 4, 5)]
    assert [report.problem for report in reports[:2]] == [None, None]
    assert "step-00000003.a0001 may not be removed" in str(reports[2].problem)
    assert len(list_published(tmp_path)) == 3
