"""The display on a terminal: a few lines that move, above them what stays."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator, Sequence
from typing import TextIO

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from phaseline.errors import printable
from phaseline.tracking.console import PhaseBanner, Progress
from phaseline.tracking.formatting import (
    format_loss,
    format_norm,
    format_quantity,
    format_rate,
    format_seconds,
    format_share,
    wrap_words,
)
from phaseline.tracking.lasting_stream import LastingStream
from phaseline.tracking.live_region import DrawnLine, LiveRegion

_WIDEST = 110
_LEAST_S_BETWEEN_DRAWINGS = 0.1
_NARROWEST_CELL = 11
_WIDEST_CELL = 14
_NARROWEST_BAR = 22
_GAP = 2
_ACCENT = "cyan"


class RichDisplay:
    """Draws progress in place; every phase leaves a line that says how it ended."""

    def __init__(self, stream: TextIO) -> None:
        """Draws nothing yet.

        Args:
            stream: The terminal. Its encoding decides which characters are used.
        """
        self._target = stream
        self._region = LiveRegion(LastingStream(stream))
        self._progress: Progress | None = None
        self._drawn_at = 0.0
        self._closed = False

    def phase_started(self, banner: PhaseBanner) -> None:
        """Ends the lines of the phase before and writes a heading that stays."""
        self.phase_ended()
        heading = Text.assemble(
            (f"Phase {banner.idx + 1} of {banner.num_phases}", "dim"),
            "  ",
            (banner.name, f"bold {_ACCENT}"),
            (f"  {banner.num_steps:,} steps", "dim"),
        )
        description = [Text(line, style="dim") for line in self._lines(banner.description)]
        self._draw(above=[Text(""), heading, *description])

    def update(self, progress: Progress) -> None:
        """Draws the state, a few times a second at most; a finished phase at once."""
        self._progress = progress
        due = time.monotonic() - self._drawn_at >= _LEAST_S_BETWEEN_DRAWINGS
        if due or progress.is_complete:
            self._draw()

    def note(self, text: str) -> None:
        """Writes the text above the moving lines, where it stays."""
        self._draw(above=[Text(line) for line in self._lines(text)])

    def close(self) -> None:
        """Replaces the moving lines by one that says how the phase ended."""
        if not self._closed:
            self._closed = True
            self.phase_ended()

    def phase_ended(self) -> None:
        """Replaces the moving lines by one that says how the phase ended."""
        if self._progress is not None:
            last = closing_line(self._progress, _width(self._target) - 1)
            self._progress = None
            self._draw(above=[last])

    def _lines(self, text: str) -> list[str]:
        return wrap_words(printable(text), _width(self._target) - 1)

    def _draw(self, above: Sequence[RenderableType] = ()) -> None:
        self._drawn_at = time.monotonic()
        width = _width(self._target)
        console = _console(self._target, width)
        # The last column stays free: some terminals wrap a line that reaches the edge.
        lines = progress_lines(self._progress, min(_WIDEST, width - 1)) if self._progress else []
        kept = "".join(_render(console, item, soft_wrap=True).text + "\n" for item in above)
        self._region.draw([_render(console, line) for line in lines], width=width, above=kept)


def progress_lines(progress: Progress, width: int) -> list[RenderableType]:
    """Where the phase stands, in lines of at most `width` columns."""
    return [Text(""), _bar(progress, width), *_labelled(_columns(progress), width)]


def _bar(progress: Progress, width: int) -> Table:
    """The phase's name, a bar, the steps; on a narrow terminal without the steps."""
    share = min(1.0, progress.step / max(1, progress.num_steps))
    head = Text.assemble(
        (f"{progress.phase_idx + 1}/{progress.num_phases} ", "dim"), progress.phase
    )
    head.truncate(max(10, width // 3), overflow="ellipsis")
    tail = [Text(f"{int(100 * share)}%".rjust(4), style="bold")]
    counts = Text(f"{progress.step:,} / {progress.num_steps:,}")
    if width >= head.cell_len + counts.cell_len + _NARROWEST_BAR:
        tail.insert(0, counts)
    room = width - head.cell_len - sum(_GAP + text.cell_len for text in tail) - _GAP
    bar = ProgressBar(
        total=1.0,
        completed=share,
        width=max(1, room),
        complete_style=_ACCENT,
        finished_style="green",
    )
    row = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
    row.add_row(head, bar, *tail)
    return row


def _labelled(columns: Sequence[tuple[str, str, str]], width: int) -> Iterator[Text]:
    """Names above values; on a narrow terminal in several rows of columns."""
    num_rows = -(-len(columns) // max(1, width // _NARROWEST_CELL))
    num_columns = -(-len(columns) // num_rows)
    cell = max(_NARROWEST_CELL, min(_WIDEST_CELL, width // num_columns))
    for start in range(0, len(columns), num_columns):
        names, values = Text(), Text()
        for name, value, style in columns[start : start + num_columns]:
            names.append(name.ljust(cell), style="dim")
            values.append(value.ljust(cell), style=style)
        yield from (names, values)


def closing_line(progress: Progress, width: int) -> Text:
    """How a phase ended, in one line; what does not fit a narrow terminal is left out."""
    losses = [("loss", progress.loss), ("val", progress.validation_loss)]
    facts = [f"{name} {format_loss(value)}" for name, value in losses if value is not None]
    if progress.is_complete:
        head = Text.assemble(("done ", "bold green"), (progress.phase, "bold"))
        facts.insert(0, f"{progress.num_steps:,} steps")
        if progress.tokens_per_s is not None:
            facts.append(f"{progress.unit}/s {format_quantity(progress.tokens_per_s)}")
    else:
        head = Text.assemble(("stopped ", "bold yellow"), (progress.phase, "bold"))
        facts.insert(0, f"at step {progress.step:,} of {progress.num_steps:,}")
    while len(facts) > 1 and head.cell_len + 2 + len(", ".join(facts)) > width:
        facts.pop()
    return head.append("  " + ", ".join(facts), style="not bold")


def _columns(progress: Progress) -> list[tuple[str, str, str]]:
    utilization = [] if progress.mfu is None else [("mfu", format_share(progress.mfu), "")]
    return [
        ("loss", format_loss(progress.loss), "bold"),
        ("val loss", format_loss(progress.validation_loss), "bold"),
        ("lr", format_rate(progress.lr), ""),
        ("grad norm", format_norm(progress.grad_norm), ""),
        (f"{progress.unit}/s", format_quantity(progress.tokens_per_s), ""),
        ("phase left", format_seconds(progress.phase_left_s), ""),
        ("all left", format_seconds(progress.session_left_s), ""),
        *utilization,
    ]


def _width(target: TextIO) -> int:
    """Columns of the terminal now; 80 if the stream is none."""
    try:
        return os.get_terminal_size(target.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _console(target: TextIO, width: int) -> Console:
    """A console that renders for the terminal, but writes to nowhere."""
    aside = _Aside(getattr(target, "encoding", None) or "utf-8")
    return Console(file=aside, force_terminal=True, width=width, highlight=False, emoji=False)


class _Aside(io.StringIO):
    """Text kept aside, under the terminal's encoding, which rich asks for."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]  # StringIO calls it a plain attribute.
        return self._encoding


def _render(console: Console, item: RenderableType, *, soft_wrap: bool = False) -> DrawnLine:
    with console.capture() as capture:
        console.print(item, end="", soft_wrap=soft_wrap, overflow="ignore", crop=not soft_wrap)
    text = capture.get().rstrip("\n")
    return DrawnLine(text, Text.from_ansi(text).cell_len)
