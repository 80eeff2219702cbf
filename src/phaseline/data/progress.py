"""How far the preparation of a source is, for a person: a bar, or a line now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from phaseline.errors import printable

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from phaseline.data.cache import Report

_MEGA = 1e6


class Progress(Protocol):
    """Told of every chunk that is done. A block around it is one source."""

    def begin(self, source: str) -> None:
        """A source is begun."""
        ...

    def advance(self, num_samples: int, num_characters: int) -> None:
        """More of it is done."""
        ...

    def end(self) -> None:
        """It is done, or given up."""
        ...


class PlainProgress:
    """Says a line now and then, where there is no terminal."""

    def __init__(self, report: Report, interval_s: float = 10.0) -> None:
        """Nothing is said yet.

        Args:
            report: Given the lines.
            interval_s: Least seconds between two of them.
        """
        self._report = report
        self._interval_s = interval_s

    def begin(self, source: str) -> None:
        """Starts counting; the first line comes after the interval."""
        self._source = source
        self._num_samples = self._num_characters = 0
        self._started_s = self._said_s = time.monotonic()

    def advance(self, num_samples: int, num_characters: int) -> None:
        """Says where it is, if it is time."""
        self._num_samples += num_samples
        self._num_characters += num_characters
        now_s = time.monotonic()
        if now_s - self._said_s >= self._interval_s:
            self._said_s = now_s
            speed = self._num_characters / _MEGA / (now_s - self._started_s)
            self._report(
                f"preparing {self._source}: {self._num_samples:,} samples, "
                f"{self._num_characters / _MEGA:,.0f} M characters, {speed:.1f} M/s"
            )

    def end(self) -> None:
        """Says nothing: what came out is reported by whoever began it."""


class RichProgress:
    """A line on a terminal that counts up; how much there is nobody knows before the end."""

    def __enter__(self) -> Self:
        from rich.progress import Progress as Bar
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TextColumn("{task.fields[samples]:,} samples"),
            TextColumn("{task.fields[characters]:,.1f} M characters"),
            TextColumn("{task.fields[speed]:.1f} M/s"),
            TimeElapsedColumn(),
            transient=True,
        )
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """A line above the bar that stays."""
        self._bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def begin(self, source: str) -> None:
        """A new line for a source."""
        self._num_samples = self._num_characters = 0
        self._started_s = time.monotonic()
        self._task = self._bar.add_task(source, total=None, samples=0, characters=0.0, speed=0.0)

    def advance(self, num_samples: int, num_characters: int) -> None:
        """Counts up."""
        self._num_samples += num_samples
        self._num_characters += num_characters
        elapsed_s = max(1e-9, time.monotonic() - self._started_s)
        mega = self._num_characters / _MEGA
        self._bar.update(
            self._task, samples=self._num_samples, characters=mega, speed=mega / elapsed_s
        )

    def end(self) -> None:
        """Takes the line away."""
        self._bar.remove_task(self._task)
