"""A stop request that reaches a running attempt through the session's directory.

It lies in the folder of the attempt that is asked, so it can stop no later one, and it stays
there as the record of who asked. A fresh image of the same attempt finds it again.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import asdict, dataclass

from phaseline.errors import SessionError
from phaseline.session.files import write_json_once
from phaseline.session.layout import AttemptLayout
from phaseline.session.stored import Count, StoredFileError, UnixTime, read_stored

LOOK_EVERY_S = 0.5
"""How often a running attempt looks, at most. A look that finds nothing costs 2 us."""


@dataclass(frozen=True)
class StopRequest:
    """Who asked an attempt to stop.

    Attributes:
        attempt: The attempt that was asked.
        host: The machine of whoever asked.
        pid: The process there.
        time: Unix time, seconds.
    """

    attempt: Count
    host: str
    pid: Count
    time: UnixTime

    def __str__(self) -> str:
        return f"phaseline stop on {self.host}"


def request_stop(attempt: AttemptLayout) -> bool:
    """Asks an attempt to stop; returns whether nobody had asked before.

    Raises:
        UsageError: The file system cannot keep the request.
    """
    request = StopRequest(attempt.number, socket.gethostname(), os.getpid(), time.time())
    return write_json_once(attempt.stop_file, asdict(request))


def read_stop_request(attempt: AttemptLayout) -> StopRequest | None:
    """Returns who asked the attempt to stop; None if nobody did.

    Raises:
        SessionError: The request is damaged, or names another attempt.
    """
    remedy = "Remove it, and ask with `phaseline stop`."
    try:
        request = read_stored(attempt.stop_file, StopRequest, remedy=remedy)
    except FileNotFoundError:
        return None
    if request.attempt != attempt.number:
        raise StoredFileError(
            f"{attempt.stop_file} asks attempt {request.attempt} to stop, and lies in the folder "
            f"of attempt {attempt.number}. Remove it, and ask with `phaseline stop`."
        )
    return request


class StopRequestWatch:
    """Looks for a stop request now and then, however often it is called. **Ranks:** main."""

    def __init__(self, attempt: AttemptLayout, *, every_s: float = LOOK_EVERY_S) -> None:
        """Looks at the first call.

        Args:
            attempt: The attempt that runs.
            every_s: Seconds between two looks, at least.
        """
        self._attempt = attempt
        self._every_s = every_s
        self._next_s = 0.0

    def look(self) -> str:
        """Who asked, for people; empty if nobody did, as far as was looked.

        A request that cannot be used asks for nothing: it must not end a healthy run.
        """
        now_s = time.monotonic()
        if now_s < self._next_s:
            return ""
        self._next_s = now_s + self._every_s
        if not self._attempt.stop_file.exists():
            return ""
        try:
            request = read_stop_request(self._attempt)
        except (OSError, SessionError):
            return ""
        return "" if request is None else str(request)
