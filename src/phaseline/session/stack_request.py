"""A request, through the session's directory, that every rank writes where its threads are."""

from __future__ import annotations

import os
import time
from pathlib import Path

from phaseline.session.files import write_json
from phaseline.session.layout import AttemptLayout

LOOK_EVERY_S = 1.0
"""How often a rank looks. A look costs microseconds, in a thread of its own."""


def request_stacks(attempt: AttemptLayout) -> None:
    """Asks all ranks of a running attempt; each time anew, from any machine."""
    attempt.stacks_dir.mkdir(exist_ok=True)
    write_json(request_file(attempt), {"time": time.time(), "pid": os.getpid()})


def request_file(attempt: AttemptLayout) -> Path:
    """Where the request lies; its time of change tells one from the next."""
    return attempt.stacks_dir / "request.json"


def stacks_file(attempt: AttemptLayout, rank: int) -> Path:
    """Where a rank writes, one dump after the other."""
    return attempt.stacks_dir / f"rank-{rank:05d}.txt"
