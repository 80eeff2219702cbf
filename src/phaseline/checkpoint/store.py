"""Publishing a phase's checkpoints: aside, flushed, manifest last, renamed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from phaseline.checkpoint.manifest import (
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    checkpoint_name,
    list_published,
    parse_name,
)
from phaseline.checkpoint.writer import RankState, describe_model, write_part
from phaseline.distributed.engines.base import Engine
from phaseline.distributed.guards import main_process_only
from phaseline.distributed.world import World
from phaseline.errors import AnomalyError, CheckpointError
from phaseline.session.files import fsync_folder

_ASIDE = ".aside-"


@dataclass(frozen=True, kw_only=True)
class SavedPosition:
    """Where training stands when it is saved.

    Attributes:
        phase: Name of the phase.
        phase_step: Optimizer steps of the phase that are done.
        global_step: Optimizer steps of the session that are done.
        tokens: Tokens that the session has consumed.
        final: Whether the phase is finished.
        committed: Per attempt, how many lines of metrics this state stands on.
    """

    phase: str
    phase_step: int
    global_step: int
    tokens: int
    final: bool
    committed: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class SavedReport:
    """What a save cost.

    Attributes:
        folder: The published checkpoint.
        duration_s: Wall time of the save, which the loop waited for.
        size_bytes: All files together.
    """

    folder: Path
    duration_s: float
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Retention:
    """What is kept of a phase's checkpoints.

    Attributes:
        keep_last: So many of the newest.
        adopted: Checkpoints of earlier attempts that this one trusts. Others are left alone:
            a stale writer's must neither be kept for ours nor removed by us.
        resumed_from: Never removed.
    """

    keep_last: int
    adopted: Collection[Path] = ()
    resumed_from: Path | None = None


class CheckpointStore:
    """Writes the checkpoints of one phase for one attempt; a stale attempt's never collide."""

    def __init__(
        self,
        folder: Path,
        world: World,
        *,
        attempt: int,
        config_fingerprint: str,
        retention: Retention,
        fence: Callable[[], None],
        timeout_s: float = 600.0,
    ) -> None:
        """Clears away what attempts before this one left half-written.

        Args:
            folder: The phase's checkpoints.
            world: The started world.
            attempt: This attempt; part of every name.
            config_fingerprint: Recorded in every manifest.
            retention: What is kept.
            fence: Called on the main rank before publishing; raises if it may not any more.
            timeout_s: Longest wait for the slowest rank, seconds.
        """
        self.folder = folder
        self._world = world
        self._attempt = attempt
        self._config_fingerprint = config_fingerprint
        self._retention = retention
        self._fence = fence
        self._timeout_s = timeout_s
        self._clear_aside()

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that publishes."""
        return self._world.is_main

    def save(self, engine: Engine, position: SavedPosition, state: dict[str, Any]) -> SavedReport:
        """Publishes the engine's state, or raises on every rank. **Ranks:** all. No collective.

        Args:
            engine: The live engine.
            position: Where training stands.
            state: JSON state that is alike on all ranks; the main rank writes it.

        Raises:
            AnomalyError: Some rank holds weights that are not finite.
            CheckpointError: Some rank could not write its part; nothing was published.
        """
        began = time.monotonic()
        name = checkpoint_name(position.phase_step, self._attempt)
        aside, target = self.folder / f"{_ASIDE}{name}", self.folder / name
        key = self._world.rendezvous.unique(f"save/{target}")
        part = self._write_part(engine, aside)
        rendezvous = self._world.rendezvous
        rendezvous.publish(f"{key}/{self._world.dp_rank}", part)
        if self._world.is_main:
            try:
                verdict = self._publish(engine, position, state, aside, target, key)
            except Exception as error:  # noqa: BLE001 - whatever it is, the other ranks must learn of it
                verdict = {"error": f"main rank: {error}", "anomaly": False}
            rendezvous.publish(f"{key}/verdict", verdict)
        else:
            verdict = rendezvous.wait_for(f"{key}/verdict", timeout_s=2 * self._timeout_s)
        if verdict["error"] is not None:
            kind = AnomalyError if verdict["anomaly"] else CheckpointError
            raise kind(f"No checkpoint was published at {target}: {verdict['error']}")
        self._rotate(target)
        return SavedReport(
            folder=target, duration_s=time.monotonic() - began, size_bytes=verdict["size_bytes"]
        )

    def _write_part(self, engine: Engine, aside: Path) -> dict[str, Any]:
        """Writes this rank's files; a failure is returned, so that the others learn of it."""
        world = self._world
        try:
            aside.mkdir(parents=True, exist_ok=True)
            state = RankState(engine, dp_rank=world.dp_rank, dp_world_size=world.dp_world_size)
            files = state.write(aside, world.dp_rank)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others must learn of it
            text = f"rank {world.dp_rank}: {error}"
            return {"error": text, "anomaly": isinstance(error, AnomalyError)}
        return {"error": None, "files": {name: asdict(record) for name, record in files.items()}}

    def _publish(
        self,
        engine: Engine,
        position: SavedPosition,
        state: dict[str, Any],
        aside: Path,
        target: Path,
        key: str,
    ) -> dict[str, Any]:
        """Main rank: waits for every part, then makes the whole appear at once."""
        world = self._world
        files: dict[str, FileRecord] = {}
        for rank in range(world.dp_world_size):
            part = world.rendezvous.wait_for(f"{key}/{rank}", timeout_s=self._timeout_s)
            if part["error"] is not None:
                return dict(part)
            files |= {name: FileRecord(**record) for name, record in part["files"].items()}
        files["model.json"] = write_part(aside / "model.json", describe_model(engine.module))
        files["state.json"] = write_part(aside / "state.json", state)
        Manifest(
            **asdict(position) | {"committed": position.committed},
            attempt=self._attempt,
            world_size=world.dp_world_size,
            engine=engine.settings.name,
            config_fingerprint=self._config_fingerprint,
            files=files,
            created=time.time(),
        ).save(aside)
        fsync_folder(aside)
        self._fence()
        aside.rename(target)
        fsync_folder(self.folder)
        return {"error": None, "size_bytes": sum(record.size for record in files.values())}

    @main_process_only
    def _rotate(self, newest: Path) -> None:
        """Removes what retention no longer asks for, after something newer is safe."""
        self._fence()
        own, retention = f".a{self._attempt:04d}", self._retention
        trusted = [
            path
            for path in list_published(self.folder)
            if path.name.endswith(own) or path in retention.adopted
        ]
        for old in trusted[: -retention.keep_last]:
            if old not in (newest, retention.resumed_from):
                remove_checkpoint(old)

    @main_process_only
    def _clear_aside(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob(f"{_ASIDE}*"):
            parsed = parse_name(path.name.removeprefix(_ASIDE))
            if parsed is not None and parsed[1] < self._attempt:
                shutil.rmtree(path, ignore_errors=True)


def remove_checkpoint(folder: Path) -> None:
    """Removes a checkpoint, its manifest first: half-removed, it is no checkpoint."""
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
