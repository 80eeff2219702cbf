"""Run as a program: in one child per operation of a save, that operation is the last.

The children are forked after the imports, before anything has a thread: a start costs next to
nothing then.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from phaseline.checkpoint.retention import Retention
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.distributed.world import World
from unit.checkpoint.faulty_disk import FaultyDisk
from unit.checkpoint.live_engines import at, build, save, store_in, train
from unit.checkpoint.made_checkpoints import make_checkpoint

SAFE_STEP, FATAL_STEP = 2, 3


def save_twice(folder: Path, disk: FaultyDisk) -> None:
    """One save that works, and one on the disk that may not. Leaves a finished phase besides."""
    environment = RankEnvironment.read({})
    world = World(environment, Rendezvous(environment, timeout_s=30), collective_timeout_s=30)
    engine = build(world, 1)
    finished = make_checkpoint(folder / "before", 9, final=True)
    retention = Retention(
        keep_last=2,
        adopted=[finished],
        finished=[(folder / "before", folder / "before_final")],
    )
    only = folder / "only"
    train(engine, range(SAFE_STEP))
    for step in (1, SAFE_STEP):
        save(store_in(only, world, retention=Retention(keep_last=9)), engine, at(step), {})
    train(engine, range(SAFE_STEP, FATAL_STEP))
    save(store_in(only, world, retention=retention, disk=disk), engine, at(FATAL_STEP), {})
    world.close()


def in_child(work: Callable[[], None]) -> int:
    """Returns the exit code of a forked child that does some work."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - told by the code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(root: Path) -> None:
    """Prints, per operation, its name and how its child ended."""

    def rehearse() -> None:
        disk = FaultyDisk()
        save_twice(root / "rehearsal", disk)
        (root / "operations").write_text("\n".join(disk.operations))
        (root / "modules").write_text("\n".join(sys.modules))

    assert in_child(rehearse) == 0
    for module in (root / "modules").read_text().splitlines():
        # What is imported on the way costs every child a second.
        with suppress(Exception):
            importlib.import_module(module)
    for idx, operation in enumerate((root / "operations").read_text().splitlines()):
        disk = FaultyDisk(idx, dies=True)
        code = in_child(lambda idx=idx, disk=disk: save_twice(root / f"{idx:03d}", disk))  # type: ignore[misc]  # bound now
        print(f"{idx:03d} {code} {operation}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
