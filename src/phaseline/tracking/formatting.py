"""Numbers and lines as people read them. None is a dash: not known yet."""

from __future__ import annotations

import math
import textwrap

_SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def format_loss(value: float | None) -> str:
    """`2.3417`; for large values fewer places, so that columns keep their width."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1e5:
        return f"{value:.2e}"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"


def format_rate(value: float | None) -> str:
    """A learning rate, `3.00e-04`."""
    return "-" if value is None else f"{value:.2e}"


def format_norm(value: float | None) -> str:
    """A gradient norm, three digits: `0.847`, `12.3`."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    return f"{value:#.3g}" if 1e-3 <= abs(value) < 100 else f"{value:.3g}"


def format_share(value: float | None) -> str:
    """A share of 1 as a percentage, `41.3%`."""
    return "-" if value is None else f"{100 * value:.1f}%"


def format_quantity(value: float | None) -> str:
    """A count in three digits: `847`, `12.4k`, `1.50M`."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    for scale, letter in _SCALES:
        # From here on three digits would round up to the next unit.
        if value >= scale * 0.9995:
            scaled = value / scale
            places = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:.{places}f}{letter}"
    return f"{value:.0f}"


def format_seconds(value: float | None) -> str:
    """A length of time in its two largest units: `47s`, `3m 12s`, `5h 07m`, `2d 04h`."""
    if value is None or not math.isfinite(value):
        return "-"
    seconds = max(0, round(value))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02d}h"
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {seconds:02d}s" if minutes else f"{seconds}s"


def wrap_words(text: str, width: int) -> list[str]:
    """Lines that break between words; what is longer than one, as a path, stays whole."""
    lines = []
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line,
            max(20, width),
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=False,
        ) or [""]
    return lines
