"""Nothing that is written into a session's directory may leave it.

A directory that came from somebody else can hold links. Whoever is about to write looks
through it once, and refuses it if a link leads out: a folder that is one would take what is
written to wherever it points.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from phaseline.errors import ExitCode, SessionError
from phaseline.session.layout import SessionLayout

_WANDB_RUN = re.compile(r"(wandb|synced/wandb)/(offline-)?run-[^/]+")
"""Folders that wandb makes anew for each run, and in which it links a log in the user's cache."""


class LeadsOutError(SessionError):
    """A session's directory holds a link that leads out of it."""

    exit_code = ExitCode.USAGE


def require_confined(layout: SessionLayout) -> None:
    """Refuses a session's directory in which a link leads out. Reads names, and no contents.

    The directory itself may be reached over links: that is its owner's choice.

    Raises:
        LeadsOutError: Naming the link and where it leads.
        OSError: A folder cannot be listed.
    """
    if not layout.root.is_dir():
        return
    root = layout.root.resolve()
    for link in _links_below(root):
        target = _target(link)
        if target is None or not target.is_relative_to(root):
            where = "nowhere, or to itself" if target is None else f"to {target}"
            raise LeadsOutError(
                f"{link} is a link that leads {where}, out of the session's directory {root}. "
                "Nothing is written through it. Put the folder or file itself there, or remove "
                "the link; a whole session may lie behind a link (--session DIR)."
            )


def _links_below(root: Path) -> Iterator[Path]:
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                found = list(entries)
        except (FileNotFoundError, NotADirectoryError):
            # A session that runs removes checkpoints; the root itself must be there.
            if folder == root:
                raise
            continue
        for entry in found:
            if entry.is_symlink():
                yield Path(entry.path)
            elif entry.is_dir(follow_symlinks=False) and not _is_wandbs(Path(entry.path), root):
                folders.append(Path(entry.path))


def _is_wandbs(folder: Path, root: Path) -> bool:
    return _WANDB_RUN.fullmatch(folder.relative_to(root).as_posix()) is not None


def _target(link: Path) -> Path | None:
    """Where a link leads; None if in a circle."""
    try:
        return link.resolve()
    except (OSError, RuntimeError):  # older Pythons say a circle by RuntimeError
        return None
