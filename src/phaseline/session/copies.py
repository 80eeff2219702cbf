"""A session's directory that was copied: two of them would feed one wandb run."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from phaseline.errors import SessionError, UsageError
from phaseline.session.identity import SessionIdentity, load_identity
from phaseline.session.layout import SessionLayout


def place_of_session(layout: SessionLayout) -> str:
    """Where a session lies, as its identity remembers it."""
    return str(layout.root.resolve())


def find_original(layout: SessionLayout, identity: SessionIdentity) -> Path | None:
    """The directory that a session's directory is a copy of; None if it is none, or was moved.

    Only an original that this machine sees under its old path can be found.

    Args:
        layout: The session's directory.
        identity: Who it says that it is.
    """
    original = Path(identity.place)
    try:
        # By number alone: a file system may be mounted twice, and has two devices then.
        if original.stat().st_ino == layout.root.stat().st_ino:
            return None
        there = load_identity(SessionLayout(original))
    except (OSError, ValueError, SessionError):
        return None
    return original if there is not None and there.id == identity.id else None


def require_no_copy(layout: SessionLayout) -> None:
    """Refuses a directory that was copied from a session that is still there.

    Raises:
        UsageError: Naming the original, and both ways on.
    """
    identity = None
    with suppress(SessionError):  # whoever opens the session says what is wrong with it
        identity = load_identity(layout)
    original = None if identity is None else find_original(layout, identity)
    if original is not None:
        raise UsageError(
            f"{layout.root} is a copy of the session at {original}, which is still there: both "
            "would write into one wandb run, under one name. To have the copy go on as a session "
            f"of its own, run `phaseline branch {layout.root}` once; to go on with the original, "
            f"name it (--session {original}). If the copy is to take its place, remove the original."
        )
