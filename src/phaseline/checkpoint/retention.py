"""What is kept of a phase's checkpoints, and what is removed once something newer is safe."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from phaseline.checkpoint.disk import Disk
from phaseline.checkpoint.manifest import (
    ASIDE,
    MANIFEST_NAME,
    Manifest,
    checkpoint_name,
    is_before_end,
    list_published,
)
from phaseline.checkpoint.reader import is_optimizer_file
from phaseline.errors import CheckpointError


@dataclass(frozen=True)
class Best:
    """What makes one checkpoint better than another.

    Attributes:
        metric: Of a validation, as `loss`.
        mode: min or max.
    """

    metric: str
    mode: str

    def is_better(self, value: float, other: float | None) -> bool:
        """Whether a value beats another; None: there is none yet."""
        if other is None:
            return True
        return value < other if self.mode == "min" else value > other


@dataclass(frozen=True, kw_only=True)
class Retention:
    """What is kept of a phase's checkpoints.

    Attributes:
        keep_last: So many of the newest.
        keep_every_steps: Besides, the first in each span of so many steps; 0: none.
        best: Besides, the best by a metric; None: none.
        adopted: Checkpoints of earlier attempts that this one trusts. Others are left alone:
            a stale writer's must neither be kept for ours nor removed by us.
        resumed_from: Never removed.
        finished: Per finished phase, the folders of its checkpoints and of what it leaves;
            its last one is reduced to its weights.
    """

    keep_last: int
    keep_every_steps: int = 0
    best: Best | None = None
    adopted: Collection[Path] = ()
    resumed_from: Path | None = None
    finished: Sequence[tuple[Path, Path]] = ()


def superfluous(
    published: Sequence[tuple[Path, Manifest]], newest: Path, retention: Retention
) -> list[Path]:
    """Returns what nothing asks for any more, oldest first.

    Args:
        published: Trusted checkpoints of the phase with their manifests, oldest first.
        newest: What was published just now.
        retention: What is kept.
    """
    kept = {newest, retention.resumed_from}
    replaced = _replaced(published)
    lasting = [entry for entry in published if entry[0] not in replaced]
    kept |= {path for path, _ in lasting[-retention.keep_last :]}
    kept |= {path for path, manifest in lasting if manifest.final}
    kept |= _first_of_each_span(lasting, retention.keep_every_steps)
    if retention.best is not None:
        kept.add(best_of(lasting, retention.best))
    return [path for path, _ in published if path not in kept]


def _replaced(published: Sequence[tuple[Path, Manifest]]) -> set[Path]:
    """What was saved before the end of a phase, once more than that is saved at its last step."""
    early = {path for path, _ in published if is_before_end(path.name)}
    steps = {manifest.phase_step for path, manifest in published if path not in early}
    return {path for path, manifest in published if path in early and manifest.phase_step in steps}


def best_of(published: Sequence[tuple[Path, Manifest]], best: Best) -> Path | None:
    """The checkpoint whose own validation was best, the earlier of equals; None if none had one."""
    found: tuple[float, Path] | None = None
    for path, manifest in published:
        value = manifest.validation.get(best.metric)
        if value is not None and best.is_better(value, found and found[0]):
            found = (value, path)
    return found and found[1]


def _first_of_each_span(published: Sequence[tuple[Path, Manifest]], steps: int) -> set[Path]:
    if steps == 0:
        return set()
    spans: dict[int, Path] = {}
    for path, manifest in published:
        spans.setdefault(manifest.phase_step // steps, path)
    # Before the first span is full there is nothing to look back to.
    spans.pop(0, None)
    return set(spans.values())


class Rotation:
    """Removes what is superfluous. Lives on the main rank, beside the training thread."""

    def __init__(self, folder: Path, retention: Retention, *, attempt: int, disk: Disk) -> None:
        """Takes the phase's checkpoints.

        Args:
            folder: Where they are.
            retention: What is kept.
            attempt: This attempt.
            disk: Does what is asked for.
        """
        self._folder = folder
        self._retention = retention
        self._attempt = attempt
        self._disk = disk

    def run(self, newest: Path) -> None:
        """Removes what nothing asks for, now that something newer is safe.

        Raises:
            OSError: The file system refuses.
        """
        session = Manifest.load(newest).session
        for path in superfluous(self._trusted(self._folder, session), newest, self._retention):
            self._disk.remove(path)
        for checkpoints, final in self._retention.finished:
            published = self._trusted(checkpoints, session)
            replaced = _replaced(published)
            for path, manifest in published:
                if path == self._retention.resumed_from:
                    continue
                if manifest.final:
                    self._reduce(path, manifest, final)
                elif path in replaced:  # by an attempt that ended before it could remove it
                    self._disk.remove(path)

    def _trusted(self, folder: Path, session: str) -> list[tuple[Path, Manifest]]:
        """Whatever else was copied in: it may be the only copy of another session's."""
        own, adopted = f".a{self._attempt:04d}", self._retention.adopted
        found = [
            (path, Manifest.load(path))
            for path in list_published(folder)
            if path.name.endswith(own) or path in adopted
        ]
        return [(path, manifest) for path, manifest in found if manifest.session == session]

    def _reduce(self, path: Path, whole: Manifest, final: Path) -> None:
        """Keeps a finished phase's weights and lets its optimizer's state go."""
        kept = self._trusted(final, whole.session)
        if not any(manifest.phase_step == whole.phase_step for _, manifest in kept):
            keep_weights(path, final, attempt=self._attempt, disk=self._disk)
        self._disk.remove(path)


def keep_weights(path: Path, final: Path, *, attempt: int, disk: Disk) -> Path:
    """Publishes a checkpoint's weights as a checkpoint of their own; no tensor is copied.

    Args:
        path: The whole checkpoint, verified.
        final: The folder that the new one is published in.
        attempt: This attempt, part of its name.
        disk: Does what is asked for.
    """
    manifest = Manifest.load(path)
    files = {name: r for name, r in manifest.files.items() if not is_optimizer_file(name)}
    name = checkpoint_name(manifest.phase_step, attempt)
    aside, target = final / f"{ASIDE}{name}", final / name
    if aside.exists():
        disk.remove(aside)  # of this attempt's image before this one
    disk.make_folder(final)
    disk.make_folder(aside)
    for file_name in files:
        disk.link(path / file_name, aside / file_name)
    reduced = manifest.of_weights(files, attempt=attempt, created=time.time())
    disk.write_file(aside / MANIFEST_NAME, [memoryview(reduced.to_bytes())])
    disk.flush_folder(aside)
    if target.exists():
        raise CheckpointError(f"{target} is in the way of the weights of {path}. Move it away.")
    disk.rename(aside, target)
    disk.flush_folder(final)
    return target
