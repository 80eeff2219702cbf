"""The lock file that says whether a session's tracker is fed, for whom, by whom, and how far.

The lock itself tells that a follower lives; what is written in the file tells whose it is,
and whether the last one ended by itself. A process that is killed keeps its lock for some
milliseconds more, while its threads end: the process id in the file tells those apart.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from phaseline.session import linux
from phaseline.tracking.tracker import tracker_folder

_FIELD_WIDTH = 20
_NUM_FIELDS = 3
_POLL_S = 0.05


class FeedState(Enum):
    """How far the follower that held the lock last has come."""

    FEEDING = "feeding"
    """It sends records; where nobody holds the lock, it was killed."""
    ENDED = "ended"
    """It ended by itself: everything is sent, or it gave up and said so in its log."""


class LockOwner(NamedTuple):
    """What a lock file says of the follower that holds it, or held it last.

    Attributes:
        parent: The process whose death ends the follower.
        pid: The follower; 0 while it is being started.
        state: How far it has come.
    """

    parent: int
    pid: int
    state: FeedState

    @property
    def is_dying(self) -> bool:
        """Whether the process is gone, though the kernel may still hold its lock."""
        return self.pid != 0 and linux.process_start(self.pid) is None


def open_lock(session_dir: Path, name: str) -> int:
    """Opens a tracker's lock file, made if need be, and returns its descriptor.

    Args:
        session_dir: The session's directory.
        name: The tracker.
    """
    folder = tracker_folder(session_dir, name)
    folder.mkdir(parents=True, exist_ok=True)
    return os.open(folder / "follower.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)


def try_lock(lock: int) -> bool:
    """Takes the lock unless another process holds it; returns whether it was taken."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_within(lock: int, timeout_s: float) -> bool:
    """Takes the lock as soon as nobody holds it; returns whether that came in time."""
    deadline = time.monotonic() + timeout_s
    while not try_lock(lock):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def write_owner(lock: int, owner: LockOwner) -> None:
    """Puts on record for whom and by whom the tracker is fed."""
    fields = (owner.parent, owner.pid, owner.state.value)
    os.pwrite(lock, "".join(f"{field:<{_FIELD_WIDTH}}\n" for field in fields).encode(), 0)


def read_owner(lock: int) -> LockOwner | None:
    """What the file says; None where it says nothing that can be read."""
    text = os.pread(lock, _NUM_FIELDS * (_FIELD_WIDTH + 1), 0).decode(errors="replace")
    fields = text.split()
    if len(fields) != _NUM_FIELDS or not (fields[0].isdigit() and fields[1].isdigit()):
        return None
    try:
        return LockOwner(int(fields[0]), int(fields[1]), FeedState(fields[2]))
    except ValueError:
        return None


@contextmanager
def in_place_of_follower(session_dir: Path, name: str) -> Iterator[bool]:
    """Keeps followers of a tracker waiting meanwhile; yields False where one lives already.

    Seen are followers on machines whose locks are seen here.
    """
    lock = open_lock(session_dir, name)
    try:
        is_alone = try_lock(lock)
        if is_alone:
            write_owner(lock, LockOwner(os.getpid(), os.getpid(), FeedState.ENDED))
        yield is_alone
    finally:
        os.close(lock)
