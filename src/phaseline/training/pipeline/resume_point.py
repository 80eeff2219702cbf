"""Which checkpoint a session goes on from, and what becomes of those that cannot be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from phaseline.checkpoint.manifest import MANIFEST_NAME, Manifest, list_headless, parse_name, verify
from phaseline.errors import CheckpointError, CheckpointFormatError, CheckpointUnreachableError
from phaseline.session.files import fsync_folder, write_json
from phaseline.session.layout import SessionLayout

_DAMAGED = "damaged-"


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """A checkpoint that verified, and what it is.

    Attributes:
        folder: The checkpoint.
        manifest: Its manifest.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def at(cls, folder: Path) -> ResumePoint:
        """A checkpoint that the main rank has already verified."""
        return cls(folder=folder, manifest=Manifest.load(folder))


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A published checkpoint that is not gone on from.

    Attributes:
        folder: The checkpoint.
        problem: What is wrong with it.
        is_ours: Whether this session wrote it; another's is left where it is.
    """

    folder: Path
    problem: str
    is_ours: bool


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """What was done about a checkpoint that did not verify.

    Attributes:
        checkpoint: Its name.
        problem: What is wrong with it.
        moved_to: Its new name in the same folder; None: it is where it was.
        steps_lost: Steps that are trained once more because of it; None: not known.
    """

    checkpoint: str
    problem: str
    moved_to: str | None
    steps_lost: int | None

    def __str__(self) -> str:
        text = f"left out {self.checkpoint}: {self.problem}"
        if self.moved_to is not None:
            text += f" It is kept as {self.moved_to}."
        if self.steps_lost:
            text += f" {self.steps_lost} step(s) are trained once more."
        return text


def find_headless(layout: SessionLayout) -> list[Rejected]:
    """Returns what has a checkpoint's name and lost its manifest, which nothing here does."""
    return [
        Rejected(
            folder=folder,
            problem=f"{folder} has no {MANIFEST_NAME}: somebody or the disk removed it.",
            is_ours=True,
        )
        for phase in sorted(layout.phases_dir.glob("*"))
        for kept in (layout.phase(phase.name).checkpoints_dir, layout.phase(phase.name).final_dir)
        for folder in list_headless(kept)
    ]


def newest_verified(
    folders: Sequence[Path], phase_names: Sequence[str], session_id: str
) -> tuple[ResumePoint | None, list[Rejected]]:
    """Returns the checkpoint that got furthest and verifies, and those that were looked at before.

    Args:
        folders: Published checkpoints, in any order.
        phase_names: The session's phases, in order.
        session_id: Identity of the session; another session's checkpoints are not its own.

    Raises:
        CheckpointFormatError: Another version trains this session. Its checkpoints are whole,
            so they are neither put aside nor passed over.
        CheckpointUnreachableError: One cannot be looked at just now.
    """
    rejected: list[Rejected] = []
    candidates: list[tuple[int, int, bool, bool, int, Path]] = []
    for folder in folders:
        try:
            manifest = Manifest.load(folder)
        except CheckpointFormatError as error:
            if error.session == session_id:
                raise
            rejected.append(Rejected(folder=folder, problem=str(error), is_ours=False))
            continue
        except CheckpointUnreachableError:
            raise
        except CheckpointError as error:
            rejected.append(Rejected(folder=folder, problem=str(error), is_ours=True))
            continue
        if manifest.session != session_id:
            problem = f"{folder} belongs to another session and was copied here. Move it away."
            rejected.append(Rejected(folder=folder, problem=problem, is_ours=False))
        elif manifest.phase in phase_names:
            rank = phase_names.index(manifest.phase)
            whole = not manifest.weights_only
            # One that was saved at the last step may be short of the phase's last validation.
            place = (rank, manifest.phase_step, manifest.final, whole, manifest.attempt)
            candidates.append((*place, folder))
    for *_, folder in sorted(candidates, reverse=True):
        try:
            return ResumePoint(folder=folder, manifest=verify(folder)), rejected
        except CheckpointUnreachableError:
            raise
        except CheckpointError as error:
            rejected.append(Rejected(folder=folder, problem=str(error), is_ours=True))
    return None, rejected


def set_aside(
    rejected: Rejected, point: ResumePoint | None, phase_names: Sequence[str]
) -> SetAside:
    """Renames a checkpoint that did not verify, so that nobody takes it for one. Never deletes.

    Only the holder of the session's lease may call it.

    Args:
        rejected: The checkpoint.
        point: What the session goes on from instead.
        phase_names: The session's phases, in order.
    """
    folder = rejected.folder
    steps_lost = _steps_lost(folder, point, phase_names) if rejected.is_ours else None
    moved_to = None
    if rejected.is_ours:
        # A file system that damages files may refuse this too: the session goes on without.
        with suppress(OSError):
            moved_to = _free_name(folder)
            folder.rename(folder.with_name(moved_to))
            fsync_folder(folder.parent)
            write_json(folder.with_name(moved_to) / "damage.json", {"problem": rejected.problem})
    return SetAside(
        checkpoint=folder.name,
        problem=rejected.problem,
        moved_to=moved_to if moved_to and not folder.exists() else None,
        steps_lost=steps_lost,
    )


def _free_name(folder: Path) -> str:
    name = f"{_DAMAGED}{folder.name}"
    number = 2
    while folder.with_name(name).exists():
        name = f"{_DAMAGED}{folder.name}.{number}"
        number += 1
    return name


def _steps_lost(folder: Path, point: ResumePoint | None, phase_names: Sequence[str]) -> int | None:
    """By its manifest, or else by the folder's name and place."""
    with suppress(CheckpointError):
        begun = 0 if point is None else point.manifest.global_step
        return max(0, Manifest.load(folder).global_step - begun)
    parsed = parse_name(folder.name)
    if parsed is None:
        return None
    if point is None:
        return parsed[0]
    if point.folder.parents[2] == folder.parents[2]:
        return max(0, parsed[0] - point.manifest.phase_step)
    names = [*phase_names, folder.parents[2].name]  # a phase that is gone from the file counts last
    is_passed = names.index(folder.parents[2].name) < names.index(point.manifest.phase)
    return 0 if is_passed else parsed[0]
