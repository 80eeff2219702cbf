"""Which checkpoints an attempt may build on. No torch.

An attempt trusts what it wrote itself, and what it saw when it began of what the attempts
before it trusted. What an older attempt publishes later is never among them, so a rank that
was left over somewhere cannot change what is resumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from phaseline.checkpoint.manifest import Manifest, list_kept
from phaseline.errors import CheckpointError
from phaseline.session.attempts import Adopted, read_adopted
from phaseline.session.committed import CommittedLines
from phaseline.session.layout import SessionLayout


def list_trusted(layout: SessionLayout, attempt: int, adopted: Adopted) -> list[Path]:
    """Published checkpoints that an attempt adopted or wrote, adopted ones first."""
    return [*_existing(layout, adopted), *_written_by(layout, attempt)]


def list_inherited(layout: SessionLayout, attempt: int) -> list[Path]:
    """Published checkpoints that an attempt which begins now may adopt.

    The chain goes back to the latest attempt that wrote down what it adopted: one that died
    before that has written nothing.
    """
    for number in reversed([n for n in layout.attempt_numbers() if n < attempt]):
        adopted = read_adopted(layout.attempt(number))
        if adopted is not None:
            return list_trusted(layout, number, adopted)
    return []


def newest_committed(layout: SessionLayout) -> tuple[CommittedLines, ...]:
    """The metrics that the session stands on, by the checkpoint that got furthest.

    What the last attempt adopted is there too: it is what that checkpoint says, unless a disk
    or another program changed one of the two.
    """
    for number in reversed(layout.attempt_numbers()):
        adopted = read_adopted(layout.attempt(number))
        if adopted is None:
            continue
        found = []
        for path in list_trusted(layout, number, adopted):
            with suppress(CheckpointError):
                found.append(Manifest.load(path))
        if not found:
            return adopted.committed
        newest = max(found, key=lambda manifest: (manifest.clock, manifest.attempt))
        return tuple(dict.fromkeys((*newest.committed, *adopted.committed)))
    return ()


def _existing(layout: SessionLayout, adopted: Adopted) -> Iterator[Path]:
    paths = (layout.root / name for name in adopted.checkpoints)
    return (path for path in paths if path.is_dir())


def _written_by(layout: SessionLayout, attempt: int) -> Iterator[Path]:
    suffix = f".a{attempt:04d}"
    for phase in sorted(layout.phases_dir.glob("*")):
        for path in list_kept(layout.phase(phase.name)):
            if path.name.endswith(suffix):
                yield path
