"""One checkpoint on its way from memory to its published name, beside the training thread.

The ranks talk through the store, never through a collective: a collective here would have to
keep an order with those of the training thread, and would hang where a rank is gone.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

from phaseline.checkpoint.disk import Disk
from phaseline.checkpoint.manifest import MANIFEST_NAME, FileRecord, Manifest
from phaseline.checkpoint.reader import INDEX
from phaseline.checkpoint.writer import RankSnapshot, merge_indexes
from phaseline.distributed.world import World
from phaseline.errors import AnomalyError, CheckpointError, LostRankError, PhaselineError

_KINDS: dict[str, type[PhaselineError]] = {
    "anomaly": AnomalyError,
    "save": CheckpointError,
    "lost": LostRankError,
}


@dataclass(frozen=True, kw_only=True)
class Content:
    """What the main rank adds to the parts of all ranks.

    Attributes:
        manifest: The manifest, without the files.
        files: Contents of small files, by name.
    """

    manifest: Manifest
    files: dict[str, bytes]


class Publication:
    """Writes a rank's part; on the main rank also waits for the others' and publishes all."""

    def __init__(
        self,
        world: World,
        *,
        key: str,
        aside: Path,
        target: Path,
        disk: Disk,
        given_up: Event,
        timeout_s: float,
    ) -> None:
        """Takes where it goes.

        Args:
            world: The started world.
            key: Names this save at the store, alike on all ranks and never used before.
            aside: Where it is written.
            target: Where it appears.
            disk: Does what is asked for.
            given_up: Set when this rank failed and waits for nobody any more.
            timeout_s: Longest wait for the slowest rank, seconds.
        """
        self.target = target
        self._world = world
        self._rendezvous = world.rendezvous
        self._key = key
        self._aside = aside
        self._disk = disk
        self._given_up = given_up
        self._timeout_s = timeout_s

    def run(
        self,
        snapshot: RankSnapshot | Exception,
        content: Content | None,
        fence: Callable[[], None],
    ) -> int:
        """Returns the size of the published checkpoint in bytes. **Ranks:** all.

        Args:
            snapshot: This rank's state, or why there is none.
            content: On the main rank, the rest.
            fence: Called on the main rank before publishing; raises if it may not any more.

        Raises:
            AnomalyError: Some rank holds weights that are not finite.
            CheckpointError: Some rank could not write its part; nothing was published.
            LostRankError: Another rank is gone; nothing was published.
        """
        part = self._write_part(snapshot)
        # A failure has a key of its own: nobody waits for slower ranks before they see it.
        name = self._failure_key if part["error"] is not None else f"{self._key}/{self._rank}"
        self._rendezvous.publish(name, part)
        if content is None:
            verdict = self._wait_for(f"{self._key}/verdict", 2 * self._timeout_s)
        else:
            verdict = self._decide(content, fence)
            self._rendezvous.publish(f"{self._key}/verdict", verdict)
        if verdict["error"] is not None:
            kind = _KINDS[verdict["kind"]]
            raise kind(f"No checkpoint was published at {self.target}: {verdict['error']}")
        size_bytes: int = verdict["size_bytes"]
        return size_bytes

    @property
    def _rank(self) -> int:
        return self._world.dp_rank

    @property
    def _failure_key(self) -> str:
        return f"{self._key}/failed"

    def _wait_for(self, key: str, timeout_s: float) -> dict[str, Any]:
        told: dict[str, Any] = self._rendezvous.wait_for(
            key, timeout_s=timeout_s, given_up=self._given_up
        )
        return told

    def _write_part(self, snapshot: RankSnapshot | Exception) -> dict[str, Any]:
        """Writes this rank's files; a failure is returned, so that the others learn of it."""
        try:
            if isinstance(snapshot, Exception):
                raise snapshot
            self._disk.make_folder(self._aside)
            files = snapshot.write(self._aside, self._rank, self._disk)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others must learn of it
            text = f"rank {self._rank}: {error}"
            return {"error": text, "kind": "anomaly" if isinstance(error, AnomalyError) else "save"}
        return {"error": None, "files": {name: asdict(record) for name, record in files.items()}}

    def _decide(self, content: Content, fence: Callable[[], None]) -> dict[str, Any]:
        """Main rank: publishes, or says on behalf of all why not."""
        try:
            files: dict[str, FileRecord] = {}
            for rank in range(self._world.dp_world_size):
                part = self._rendezvous.wait_for(
                    f"{self._key}/{rank}",
                    unless=self._failure_key,
                    timeout_s=self._timeout_s,
                    given_up=self._given_up,
                )
                if part["error"] is not None:
                    self._clear()
                    return dict(part)
                files |= {name: FileRecord(**record) for name, record in part["files"].items()}
            return {"error": None, "size_bytes": self._publish(content, files, fence)}
        except LostRankError as error:
            # Not cleared away: the lost rank may still write.
            return {"error": f"main rank: {error}", "kind": "lost"}
        except Exception as error:  # noqa: BLE001 - whatever it is, the others must learn of it
            self._clear()
            return {"error": f"main rank: {error}", "kind": "save"}

    def _publish(
        self, content: Content, files: dict[str, FileRecord], fence: Callable[[], None]
    ) -> int:
        """Makes the whole appear at once: the manifest last, then the name."""
        index = merge_indexes(self._aside, self._world.dp_world_size)
        for name, data in {**content.files, INDEX: index}.items():
            files[name] = self._disk.write_file(self._aside / name, [memoryview(data)])
        manifest = content.manifest.with_files(files, created=time.time())
        self._disk.write_file(self._aside / MANIFEST_NAME, [memoryview(manifest.to_bytes())])
        self._disk.flush_folder(self._aside)
        fence()
        self._disk.rename(self._aside, self.target)
        self._disk.flush_folder(self.target.parent)
        return sum(record.size for record in files.values())

    def _clear(self) -> None:
        """What nobody will publish takes no room: on a full disk the next save needs it."""
        shutil.rmtree(self._aside, ignore_errors=True)
