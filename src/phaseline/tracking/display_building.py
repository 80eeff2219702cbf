"""The choice of a display for a stream."""

from __future__ import annotations

import os
from typing import Literal, TextIO

from phaseline.tracking.console import Display, NullDisplay
from phaseline.tracking.plain_display import PlainDisplay

DisplayKind = Literal["auto", "rich", "plain", "off"]


def build_display(kind: DisplayKind, stream: TextIO, plain_interval_s: float = 10.0) -> Display:
    """Builds the display for a stream.

    Args:
        kind: `auto` takes rich on a terminal that can move its cursor, else plain lines.
        stream: Where to write; stays open, it belongs to the caller.
        plain_interval_s: Least seconds between two plain lines.
    """
    if kind == "off":
        return NullDisplay()
    if kind == "rich" or (kind == "auto" and can_redraw(stream)):
        # rich is imported where it is shown.
        from phaseline.tracking.rich_display import RichDisplay

        return RichDisplay(stream)
    return PlainDisplay(stream, interval_s=plain_interval_s)


def can_redraw(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can move its cursor."""
    try:
        is_terminal = stream.isatty()
    except ValueError:  # The stream is closed.
        return False
    return is_terminal and os.environ.get("TERM", "dumb") not in ("", "dumb")
