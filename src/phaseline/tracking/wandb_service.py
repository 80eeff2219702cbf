"""The processes that wandb starts, as far as the next follower must know of them.

When a follower is killed, its wandb service notices within about a second, and on its way
out may still write what it had not flushed. Who asks the files before that what was sent
would send it twice.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psutil

from phaseline.session import linux
from phaseline.session.files import write_text
from phaseline.session.stored import StoredFileError, parse_json, read_file

_PATIENCE_S = 15.0


def note_service(folder: Path) -> None:
    """Notes which processes write for this one: its children."""
    pids = [child.pid for child in psutil.Process().children()]
    noted = [(pid, linux.process_start(pid)) for pid in pids]
    write_text(_path(folder), json.dumps(noted) + "\n")


def await_former_service(folder: Path) -> None:
    """Returns when the processes that were noted last are gone, or after a while."""
    try:
        path = _path(folder)
        noted = _read_pairs(parse_json(read_file(path, remedy=""), path, remedy=""))
    except (OSError, StoredFileError):
        return
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and any(
        start is not None and linux.process_start(pid) == start for pid, start in noted
    ):
        time.sleep(0.05)


def _read_pairs(noted: Any) -> list[tuple[int, int | None]]:
    """Process ids with their starts; what is neither is left out."""
    members = noted if isinstance(noted, list) else []
    pairs = [tuple(one) for one in members if isinstance(one, list) and len(one) == 2]
    return [(pid, start) for pid, start in pairs if isinstance(pid, int)]


def _path(folder: Path) -> Path:
    return folder / "service.json"
