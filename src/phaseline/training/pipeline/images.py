"""Whether each piece of work gets a fresh process image."""

from __future__ import annotations

import sys
from typing import Protocol, TextIO

from phaseline.distributed.world import World
from phaseline.resilience.stop_flag import StopFlag
from phaseline.session.layout import AttemptLayout


class ProcessImages(Protocol):
    """What happens to the process around pieces of work."""

    terminal: TextIO
    """Where a person looks."""
    fresh: bool
    """Whether `next_image` replaces the process."""

    def attempt_opened(self, attempt: AttemptLayout, rank: int) -> None:
        """Called once the attempt's folder exists."""

    def next_image(self, world: World, *, attempt: AttemptLayout, stop_flag: StopFlag) -> None:
        """Called after each piece of work, when the world may end. **Ranks:** all."""


class InPlace:
    """Everything in the caller's process, which is never replaced: the way of the API."""

    fresh = False

    def __init__(self, terminal: TextIO | None = None) -> None:
        """Takes where a person looks; standard error if nothing is said."""
        self.terminal = terminal or sys.stderr

    def attempt_opened(self, attempt: AttemptLayout, rank: int) -> None:
        """Leaves the caller's output alone."""

    def next_image(self, world: World, *, attempt: AttemptLayout, stop_flag: StopFlag) -> None:
        """Goes on in the same process."""
