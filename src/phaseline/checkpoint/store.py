"""Saving a phase's checkpoints: the loop waits for a copy, the rest goes on behind it."""

from __future__ import annotations

import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from threading import Event
from typing import Any

from phaseline.checkpoint.background_save import BackgroundSave
from phaseline.checkpoint.disk import Disk
from phaseline.checkpoint.manifest import ASIDE, Manifest, Parent, checkpoint_name, parse_name
from phaseline.checkpoint.publication import Content, Publication
from phaseline.checkpoint.retention import Retention, Rotation
from phaseline.checkpoint.writer import RankSnapshot, describe_model
from phaseline.distributed.engines.base import SavedEngine
from phaseline.distributed.guards import main_process_only
from phaseline.distributed.world import World
from phaseline.session.committed import CommittedLines


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Who writes a phase's checkpoints, and what all of them come from.

    Attributes:
        session: Identity of the session.
        attempt: The attempt; part of every name.
        config_fingerprint: Of the resolved configuration.
        parents: The checkpoints that the phase began from.
        data: Per source, a digest of the prepared data.
    """

    session: str
    attempt: int
    config_fingerprint: str
    parents: tuple[Parent, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SavedPosition:
    """Where training stands when it is saved.

    Attributes:
        phase: Name of the phase.
        phase_step: Optimizer steps of the phase that are done.
        global_step: Optimizer steps of the session that are done.
        tokens: Tokens that the session has consumed.
        final: Whether the phase is finished.
        committed: Per attempt, the lines of metrics that this state stands on.
        validation: What a validation at this very step measured, by name.
    """

    phase: str
    phase_step: int
    global_step: int
    tokens: int
    final: bool
    committed: tuple[CommittedLines, ...]
    validation: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SavedReport:
    """What a save cost.

    Attributes:
        folder: The published checkpoint.
        position: What it is a checkpoint of.
        size_bytes: All files together.
        duration_s: From the beginning of the copy to the published name.
        stall_s: What the loop waited for: room in memory, the copy, and where it waits for
            the end, also that older ones are removed.
        stall_frac: Share of the wall time since the store was opened that saves have cost.
        problem: What went wrong after it was published; None: nothing.
    """

    folder: Path
    position: SavedPosition
    size_bytes: int
    duration_s: float
    stall_s: float
    stall_frac: float
    problem: str | None = None


class CheckpointStore:
    """Writes the checkpoints of one phase for one attempt; a stale attempt's never collide.

    Saves are published in the order in which they were begun. Each has a thread, which ends
    with it; none is left once `wait` or `abandon` has returned.
    """

    def __init__(
        self,
        folder: Path,
        world: World,
        origin: Origin,
        retention: Retention,
        *,
        fence: Callable[[], None],
        max_in_memory: int = 1,
        disk: Disk | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        """Clears away what attempts before this one left half-written or half-removed.

        Args:
            folder: The phase's checkpoints.
            world: The started world.
            origin: Who writes.
            retention: What is kept.
            fence: Called on the main rank before publishing; raises if it may not any more.
            max_in_memory: Copies of the state that may wait to be written; one more waits.
            disk: Another way to do what is asked of the file system.
            timeout_s: Longest wait for the slowest rank, seconds.
        """
        self.folder = folder
        self._world = world
        self._origin = origin
        self._fence = fence
        self._disk = disk or Disk()
        self._timeout_s = timeout_s
        self._rotation = Rotation(folder, retention, attempt=origin.attempt, disk=self._disk)
        self._finished = retention.finished
        self._max_in_memory = max_in_memory
        self._snapshots: list[RankSnapshot] = []
        self._saves: deque[tuple[BackgroundSave, Path, SavedPosition]] = deque()
        self._given_up = Event()
        self._began = time.monotonic()
        self._stalled_s = 0.0
        self._last_name: str | None = None
        # Once and not at each save: a session that was moved away must not begin anew here.
        folder.mkdir(parents=True, exist_ok=True)
        self._clear_aside()

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that publishes."""
        return self._world.is_main

    @property
    def stall_s(self) -> float:
        """What this rank's loop has waited for saves since the store was opened."""
        return self._stalled_s

    def save(
        self,
        engine: SavedEngine,
        position: SavedPosition,
        state: Mapping[str, Any],
        *,
        before_end: bool = False,
        before_publishing: Callable[[], None] = lambda: None,
    ) -> None:
        """Copies the engine's state, and begins to write it. **Ranks:** all. No collective.

        It waits for an earlier save if as many as may be are in memory. `collect` and `wait`
        tell how it went.

        Args:
            engine: The live engine.
            position: Where training stands.
            state: JSON state that is alike on all ranks; the main rank writes it.
            before_end: Whether more is to be saved at this step, once the phase has ended.
            before_publishing: Called in the save's thread of the main rank.
        """
        began = time.monotonic()
        name = checkpoint_name(position.phase_step, self._origin.attempt, before_end=before_end)
        if name == self._last_name and not position.final:
            return  # nothing was trained since
        if self.is_main:
            self._fence()  # before anything is written where the session may not lie any more
        self._last_name = name
        self._make_room()
        copy_began = time.monotonic()
        snapshot = self._snapshots.pop() if self._snapshots else RankSnapshot()
        taken = self._take(snapshot, engine)
        content = self._content(engine, position, state) if self._world.is_main else None
        publication = self._publication(name)

        def fence() -> None:
            before_publishing()
            self._fence()

        save = BackgroundSave(
            f"save {publication.target.name}",
            write=lambda: publication.run(taken, content, fence),
            release=lambda: self._snapshots.append(snapshot),
            tidy=lambda: self._rotate(publication.target),
            previous=self._saves[-1][0] if self._saves else None,
            began=copy_began,
        )
        self._saves.append((save, publication.target, position))
        self._count_stall(save, began)

    def collect(self) -> list[SavedReport]:
        """Returns what was published since the last time; waits for nothing. **Ranks:** all.

        Raises:
            AnomalyError: Some rank holds weights that are not finite.
            CheckpointError: Some rank could not write its part; nothing was published.
        """
        if not self._saves:
            return []
        reports = []
        while self._saves and self._saves[0][0].is_done:
            try:
                reports.append(self._report(*self._saves.popleft()))
            except BaseException:
                self._last_name = None  # the same step may be saved once more
                raise
        return reports

    def wait(self) -> list[SavedReport]:
        """As `collect`, once every save that was begun has ended."""
        for save, _, _ in self._saves:
            began = time.monotonic()
            save.join()
            self._count_stall(save, began)
        return self.collect()

    def abandon(self) -> None:
        """After a failure of this rank: saves that wait for another rank end. No collective."""
        self._given_up.set()
        while self._saves:
            self._saves.popleft()[0].join()

    def _make_room(self) -> None:
        held = [save for save, _, _ in self._saves if not save.is_released]
        for save in held[: len(held) - self._max_in_memory + 1]:
            save.wait_for_release()

    def _take(self, snapshot: RankSnapshot, engine: SavedEngine) -> RankSnapshot | Exception:
        """Fills a snapshot, or returns why it could not be, for all ranks to learn of."""
        world = self._world
        try:
            snapshot.take(engine, dp_rank=world.dp_rank, dp_world_size=world.dp_world_size)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others must learn of it
            return error
        return snapshot

    def _count_stall(self, save: BackgroundSave, began: float) -> None:
        stall_s = time.monotonic() - began
        save.stall_s += stall_s
        self._stalled_s += stall_s

    def _report(self, save: BackgroundSave, target: Path, position: SavedPosition) -> SavedReport:
        size_bytes = save.result()
        elapsed_s = time.monotonic() - self._began
        return SavedReport(
            folder=target,
            position=position,
            size_bytes=size_bytes,
            duration_s=save.duration_s,
            stall_s=save.stall_s,
            stall_frac=self._stalled_s / elapsed_s if elapsed_s > 0 else 0.0,
            problem=save.problem,
        )

    def _publication(self, name: str) -> Publication:
        target = self.folder / name
        return Publication(
            self._world,
            key=self._world.rendezvous.unique(f"save/{target}"),
            aside=self.folder / f"{ASIDE}{name}",
            target=target,
            disk=self._disk,
            given_up=self._given_up,
            timeout_s=self._timeout_s,
        )

    def _content(
        self, engine: SavedEngine, position: SavedPosition, state: Mapping[str, Any]
    ) -> Content:
        """Main rank: everything that must be read from the live session now."""
        manifest = Manifest(
            **{**vars(position), "validation": dict(position.validation)},
            **{**vars(self._origin), "data": dict(self._origin.data)},
            # One run of each phase, and one piece of work per step, until there are others.
            run=1,
            clock=position.global_step,
            decisions=(),
            world_size=self._world.dp_world_size,
            engine=engine.settings.name,
            files={},
            created=0.0,
        )
        texts = {"model.json": describe_model(engine.module), "state.json": state}
        return Content(
            manifest=manifest,
            files={name: json.dumps(content).encode() for name, content in texts.items()},
        )

    @main_process_only
    def _rotate(self, newest: Path) -> None:
        self._fence()
        self._rotation.run(newest)

    @main_process_only
    def _clear_aside(self) -> None:
        for folder in (self.folder, *chain.from_iterable(self._finished)):
            for path in folder.glob(f"{ASIDE}*"):
                parsed = parse_name(path.name.removeprefix(ASIDE))
                if parsed is not None and parsed[1] < self._origin.attempt:
                    shutil.rmtree(path, ignore_errors=True)
