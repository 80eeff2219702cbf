from __future__ import annotations

import math

import pytest

from phaseline.tracking.formatting import (
    format_loss,
    format_norm,
    format_quantity,
    format_rate,
    format_seconds,
    wrap_words,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.34167, "2.3417"), (123.456, "123.5"), (3e7, "3.00e+07"), (math.nan, "nan"), (None, "-")],
)
def test_format_loss_keeps_its_width_when_values_grow(value: float | None, text: str) -> None:
    assert format_loss(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (847.2, "847"),
        (999.4, "999"),
        (999.6, "1.00k"),
        (12_440, "12.4k"),
        (99_960, "100k"),
        (999_960, "1.00M"),
        (4_300_800, "4.30M"),
        (7e12, "7.00T"),
        (None, "-"),
    ],
)
def test_format_quantity_has_three_digits_when_units_change(value: float | None, text: str) -> None:
    assert format_quantity(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.2, "0s"),
        (59.6, "1m 00s"),
        (192, "3m 12s"),
        (3600 * 5 + 420, "5h 07m"),
        (86400 * 2 + 3600 * 4, "2d 04h"),
        (-3, "0s"),
        (math.inf, "-"),
        (None, "-"),
    ],
)
def test_format_seconds_shows_two_units_when_long(value: float | None, text: str) -> None:
    assert format_seconds(value) == text


def test_format_rate_and_norm_are_short_when_small() -> None:
    assert format_rate(3e-4) == "3.00e-04"
    assert format_norm(0.84712) == "0.847"
    assert format_norm(12.34) == "12.3"
    assert format_norm(0.0) == "0"
    assert format_norm(4e-7) == "4e-07"


def test_lines_break_between_words_and_keep_their_indent_and_paths() -> None:
    text = "Run the same command to resume.\n  saved    a/path/that/is/longer/than/the/line\n\nend"
    lines = [line.rstrip() for line in wrap_words(text, 24)]
    assert lines == [
        "Run the same command to",
        "resume.",
        "  saved",
        "  a/path/that/is/longer/than/the/line",
        "",
        "end",
    ]
