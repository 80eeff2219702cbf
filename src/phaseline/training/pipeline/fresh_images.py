"""The command line's way: every piece of work in an image of its own, output in a log."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from phaseline.distributed.environment import TERMINAL_VARIABLE
from phaseline.distributed.process_image import replace_image
from phaseline.distributed.world import World
from phaseline.resilience.stop_flag import StopFlag
from phaseline.session.layout import AttemptLayout


class FreshImages:
    """Sends what libraries print to the rank's log, and replaces the process by exec.

    The terminal stays open under a number of its own, which the environment carries from
    image to image, so that one display goes on over all of them.
    """

    fresh = True

    def __init__(self) -> None:
        """Keeps the launcher's standard error as the terminal."""
        inherited = os.environ.get(TERMINAL_VARIABLE)
        self._terminal_fd = int(inherited) if inherited else os.dup(2)
        os.set_inheritable(self._terminal_fd, False)
        self.terminal: TextIO = os.fdopen(
            self._terminal_fd, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False
        )

    def attempt_opened(self, attempt: AttemptLayout, rank: int) -> None:
        """Appends standard output and error to the rank's log of this attempt."""
        sys.stdout.flush()
        sys.stderr.flush()
        descriptor = os.open(attempt.rank_log(rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)

    def next_image(self, world: World, *, attempt: AttemptLayout, stop_flag: StopFlag) -> None:
        """Ends the world and begins the next image. Does not return."""
        self.terminal.flush()
        os.environ[TERMINAL_VARIABLE] = str(self._terminal_fd)
        replace_image(
            world,
            attempt=attempt.number,
            session_dir=attempt.dir.parents[1],
            stop_signal=lambda: stop_flag.number,
            keep=(self._terminal_fd,),
        )
