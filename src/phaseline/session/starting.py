"""Telling whoever watches that a launcher is at work, before its ranks can say so themselves.

From the command to the ranks' first sign some ten seconds pass, and between the starts of
`--max-restarts` a few more. Nothing but a display goes by this: the session itself is the
lease's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from phaseline.errors import SessionError
from phaseline.session.files import write_json
from phaseline.session.layout import SessionLayout
from phaseline.session.lease import LeaseOwner, LeaseState
from phaseline.session.stored import read_stored


@dataclass(frozen=True)
class _Launcher:
    """What the file holds."""

    owner: LeaseOwner


@contextmanager
def announced(layout: SessionLayout) -> Iterator[None]:
    """Says that this process starts the session's ranks, as long as the block lives.

    Where it cannot be said, as on a full disk, the start goes on: its ranks say what is wrong.
    """
    me = LeaseOwner.of_this_process()
    with suppress(OSError, SessionError):
        layout.root.mkdir(parents=True, exist_ok=True)
        # Two launchers at once: one of them is refused, and is not to end what the other said.
        if not is_starting(layout):
            write_json(layout.launcher_file, {"owner": asdict(me)})
    try:
        yield
    finally:
        with suppress(OSError, SessionError):
            if _read(layout) == _Launcher(me):
                layout.launcher_file.unlink()
            layout.root.rmdir()  # of a start that was refused nothing stays; else it is not empty


def is_starting(layout: SessionLayout) -> bool:
    """Whether a launcher is at work on the session, as far as can be told from here."""
    try:
        launcher = _read(layout)
        touched = layout.launcher_file.stat().st_mtime
    except (OSError, SessionError):
        return False
    return LeaseState(0, launcher.owner, touched).is_held()


def _read(layout: SessionLayout) -> _Launcher:
    return read_stored(layout.launcher_file, _Launcher, remedy="Remove it.")
