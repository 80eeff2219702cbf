"""What keeps a tracker from being fed: one line from its follower to whoever sees the terminal."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from phaseline.errors import PhaselineError
from phaseline.session.files import write_text
from phaseline.session.stored import read_file
from phaseline.tracking.tracker import WANDB, tracker_folder

_FILE = "problem.txt"


def leave_problem(session_dir: Path, name: str, error: BaseException) -> None:
    """Leaves a line for the main rank, which looks now and then. A full disk loses it.

    Args:
        session_dir: The session's directory.
        name: The tracker.
        error: What it, or its library, raised.
    """
    first_line = str(error).strip().partition("\n")[0] or type(error).__name__
    text = f"{name} is not fed: {first_line.rstrip('.')}. The records stay in {session_dir}"
    if name == WANDB:
        text += f"; `phaseline sync {session_dir}` sends them"
    with suppress(OSError):
        write_text(tracker_folder(session_dir, name) / _FILE, f"{text}.\n")


def take_problem(session_dir: Path, name: str) -> str:
    """The line that was left since the last time; empty if there is none."""
    path = tracker_folder(session_dir, name) / _FILE
    if not path.exists():
        return ""
    try:
        text = read_file(path, remedy="")
        path.unlink()
    except (OSError, PhaselineError):
        return ""
    return text.decode(errors="replace").strip()
