"""A few lines at the bottom of a terminal that are drawn again and again in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from phaseline.tracking.lasting_stream import LastingStream

_CLEAR_LINE = "\x1b[K"
_CLEAR_BELOW = "\x1b[J"


@dataclass(frozen=True, slots=True)
class DrawnLine:
    """A line as it goes to the terminal.

    Attributes:
        text: With its colour codes, without a line break.
        num_cells: Columns that it fills.
    """

    text: str
    num_cells: int


class LiveRegion:
    """Keeps the cursor on the free line below what it drew.

    The cursor is never hidden and no mode of the terminal is changed, so a process that is
    killed leaves the terminal as a shell wants it. Each drawing is one write.
    """

    def __init__(self, stream: LastingStream) -> None:
        self._stream = stream
        self._drawn: Sequence[DrawnLine] = ()

    def draw(self, lines: Sequence[DrawnLine], *, width: int, above: str = "") -> None:
        """Replaces what is drawn.

        Args:
            lines: What to draw now.
            width: Columns of the terminal now; it may differ from the last time.
            above: Text that goes above the lines for good; ends with a line break.
        """
        kept = above.replace("\n", f"{_CLEAR_LINE}\n")
        text = "".join(f"{line.text}{_CLEAR_LINE}\n" for line in lines)
        self._stream.write(f"{self._rewind(width)}{kept}{text}{_CLEAR_BELOW}")
        self._drawn = lines

    def _rewind(self, width: int) -> str:
        """Moves to the first drawn line; terminals wrap drawn lines when they get narrower.

        What another process wrote on the free line, as the launcher does on a Ctrl-C, goes.
        """
        num_rows = sum(max(1, -(-line.num_cells // max(1, width))) for line in self._drawn)
        return f"\x1b[{num_rows}A\r" if num_rows else "\r"
