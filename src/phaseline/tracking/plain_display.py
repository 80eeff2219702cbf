"""One line per interval: for log files, pipes and batch jobs."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TextIO

from phaseline.errors import printable
from phaseline.tracking.console import PhaseBanner, Progress
from phaseline.tracking.formatting import (
    format_loss,
    format_norm,
    format_quantity,
    format_rate,
    format_seconds,
    format_share,
)
from phaseline.tracking.lasting_stream import LastingStream


class PlainDisplay:
    """Writes plain ASCII lines, each with the time of day, no more often than an interval."""

    def __init__(self, stream: TextIO, *, interval_s: float) -> None:
        """Writes nothing yet.

        Args:
            stream: Where to write.
            interval_s: Least seconds between two lines of progress.
        """
        self._stream = LastingStream(stream)
        self._interval_s = interval_s
        self._shown_at: float | None = None
        self._unshown: Progress | None = None
        self._closed = False

    def phase_started(self, banner: PhaseBanner) -> None:
        """Writes which phase begins or goes on; its first progress follows at once."""
        self._show_rest()
        self._shown_at = None
        self.note(
            f"phase {banner.idx + 1}/{banner.num_phases} {banner.name}: "
            f"{banner.num_steps:,} steps; {banner.description}"
        )

    def update(self, progress: Progress) -> None:
        """Writes a line if one is due; the last step of a phase always gets one."""
        self._unshown = progress
        now = time.monotonic()
        is_due = self._shown_at is None or now - self._shown_at >= self._interval_s
        if is_due or progress.is_complete:
            self._shown_at = now
            self._show_rest()

    def note(self, text: str) -> None:
        """Writes each line of the text."""
        clock = time.strftime("%H:%M:%S")
        self._stream.write("".join(f"{clock} {line}\n" for line in printable(text).splitlines()))

    def phase_ended(self) -> None:
        """Writes where the phase stood, unless that is written already."""
        self._show_rest()

    def close(self) -> None:
        """Writes where the phase stood, unless that is written already."""
        if not self._closed:
            self._closed = True
            self._show_rest()

    def _show_rest(self) -> None:
        # Forgotten first: what a Ctrl-C interrupts here is not written a second time.
        rest, self._unshown = self._unshown, None
        if rest is not None:
            self.note(progress_line(rest))


def progress_line(progress: Progress) -> str:
    """One line with everything that is known."""
    if not progress.is_read:
        # A line is looked up later, and must not give one step another's numbers.
        progress = replace(progress, loss=None, lr=None, grad_norm=None)
    share = progress.step / max(1, progress.num_steps)
    facts = [
        ("loss", format_loss(progress.loss), progress.loss),
        ("val", format_loss(progress.validation_loss), progress.validation_loss),
        ("lr", format_rate(progress.lr), progress.lr),
        ("grad norm", format_norm(progress.grad_norm), progress.grad_norm),
        (f"{progress.unit}/s", format_quantity(progress.tokens_per_s), progress.tokens_per_s),
        ("mfu", format_share(progress.mfu), progress.mfu),
        ("left", format_seconds(progress.phase_left_s), progress.phase_left_s),
        ("session left", format_seconds(progress.session_left_s), progress.session_left_s),
    ]
    head = (
        f"{progress.phase_idx + 1}/{progress.num_phases} {progress.phase} "
        f"step {progress.step:,}/{progress.num_steps:,} ({int(100 * share)}%)"
    )
    return " | ".join(
        [head, *(f"{name} {text}" for name, text, value in facts if value is not None)]
    )
