"""Learning of another process's death."""

from __future__ import annotations

import select
import time

from phaseline.session import linux


class ParentWatch:
    """Tells whether a process lives. One that replaces itself by exec lives on."""

    def __init__(self, pid: int) -> None:
        """Begins to watch."""
        self._pid = pid
        self._start = linux.process_start(pid)
        self._pidfd: int | None = None
        try:
            self._pidfd = linux.pidfd_open(pid)
        except ProcessLookupError:
            self._start = None
        except (NotImplementedError, OSError):
            # Not on this system: its start time is looked up each time instead.
            self._pidfd = None

    def is_gone_within(self, timeout_s: float) -> bool:
        """Waits for its death, at most so long; returns whether it is dead."""
        if self._start is None:
            return True
        if self._pidfd is not None:
            return bool(select.select([self._pidfd], [], [], timeout_s)[0])
        time.sleep(timeout_s)
        return linux.process_start(self._pid) != self._start
