"""Giving the session's records to a tracker, each exactly once."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

from phaseline.errors import UsageError
from phaseline.session.attempts import read_outcome
from phaseline.session.identity import load_identity
from phaseline.session.layout import SessionLayout
from phaseline.session.stored_config import load_stored_config
from phaseline.tracking.event_tail import EventTail
from phaseline.tracking.parent_watch import ParentWatch
from phaseline.tracking.tracker import FollowedSession, Tracker, tracker_folder
from phaseline.tracking.tracker_building import build_tracker
from phaseline.tracking.view_tail import ViewTail

_POLL_S = 0.5


class Feed:
    """One tracker, and what of the session's records and events it was given."""

    def __init__(self, tracker: Tracker, session: FollowedSession) -> None:
        """Opens nothing yet.

        Args:
            tracker: Where records go.
            session: The session that they are of.
        """
        layout = SessionLayout(session.root)
        self._tracker = tracker
        self._session = session
        self._records = ViewTail(layout)
        self._events = EventTail(layout)
        self._last_sent: int | None = None

    def send_new(self, *, is_gone: bool = False) -> None:
        """Gives it what was added since the last time, and first of all opens it.

        Args:
            is_gone: Whether the newest attempt's process is gone.
        """
        for record in self._records.read_new():
            last_sent = self._last_sent
            if last_sent is None:
                last_sent = self._last_sent = self._tracker.open(self._session)
            # A restart trains again, bit for bit, what was recorded after its checkpoint.
            if record["seq"] > last_sent:
                self._tracker.log(record)
                self._last_sent = record["seq"]
        if self._last_sent is not None:
            for event in self._events.read_new(is_gone=is_gone):
                self._tracker.event(event)

    @property
    def was_opened(self) -> bool:
        """Whether there was a record to open the tracker for."""
        return self._last_sent is not None

    def close(self) -> None:
        """Ends the tracker if it was ever opened."""
        if self._last_sent is not None:
            self._tracker.close()


class Following:
    """Feeds a tracker until its attempt ends, then gives it what is left and closes it."""

    def __init__(self, session_dir: Path, name: str, *, parent_pid: int, attempt: int) -> None:
        """Begins to watch the parent; sends nothing yet.

        Args:
            session_dir: The session's directory.
            name: The tracker.
            parent_pid: The process whose death ends the following.
            attempt: The attempt whose outcome ends it as well, or that of a later one.
        """
        self._layout = SessionLayout(session_dir)
        self._name = name
        self._parent_pid = parent_pid
        self._parent = ParentWatch(parent_pid)
        self._attempt = attempt

    def run(self) -> None:
        """Follows to the end. The tracker's own errors pass through."""
        session = read_session(
            self._layout.root,
            folder=tracker_folder(self._layout.root, self._name),
            watched_pid=_root_of_ranks(self._parent_pid),
        )
        feed = Feed(build_tracker(self._name), session)
        is_over = is_gone = False
        while not is_over:
            # Asked before reading: what was recorded before the end is read after it.
            is_gone = not self.is_attempt_over() and self._parent.is_gone_within(_POLL_S)
            is_over = is_gone or self.is_attempt_over()
            feed.send_new(is_gone=is_gone)
        feed.close()

    def pause(self, seconds: float) -> bool:
        """Waits, but not beyond the attempt's end; returns whether the attempt still lives."""
        deadline = time.monotonic() + seconds
        while not self.is_attempt_over():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return True
            if self._parent.is_gone_within(min(_POLL_S, left_s)):
                return False
        return False

    def is_attempt_over(self) -> bool:
        """Whether the attempt, or a later one, has written how it ended."""
        newest = max(self._layout.attempt_numbers(), default=0)
        return newest >= self._attempt and read_outcome(self._layout.attempt(newest)) is not None


def _root_of_ranks(rank_pid: int) -> int:
    """The launcher that all ranks of this machine descend from; a rank alone is its own root."""
    if int(os.environ.get("LOCAL_WORLD_SIZE") or 1) == 1:
        return rank_pid
    try:
        return int(psutil.Process(rank_pid).ppid())
    except psutil.Error:
        return rank_pid


def read_session(
    session_dir: Path, *, folder: Path, watched_pid: int | None = None
) -> FollowedSession:
    """Reads who a session is and what it was configured with.

    Args:
        session_dir: The session's directory.
        folder: Where the tracker may keep files.
        watched_pid: A process that trains.

    Raises:
        UsageError: There is no session.
        SessionError: It is one of another version.
    """
    layout = SessionLayout(session_dir)
    identity = load_identity(layout)
    if identity is None:
        raise UsageError(f"{layout.root} holds no session: session.json is missing.")
    config = load_stored_config(layout)
    return FollowedSession(
        root=session_dir, identity=identity, config=config, watched_pid=watched_pid, folder=folder
    )
