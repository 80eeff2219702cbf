from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phaseline.units import Duration, Interval, parse_size


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("400 steps", 400, "steps"),
        ("1 step", 1, "steps"),
        ("5M tokens", 5_000_000, "tokens"),
        ("1_500 tokens", 1500, "tokens"),
        ("1,500 tokens", 1500, "tokens"),
        ("100 tokens", 100, "tokens"),
        ("2k steps", 2000, "steps"),
        ("1.1M tokens", 1_100_000, "tokens"),
        ("0.3B tokens", 300_000_000, "tokens"),
        ("2T tokens", 2 * 10**12, "tokens"),
        ("2 epochs", 2, "epochs"),
        (" 1.5  Epochs ", 1.5, "epochs"),
    ],
)
def test_parse_reads_number_and_unit_when_text_is_a_duration(
    text: str, value: float, unit: str
) -> None:
    assert Duration.parse(text) == Duration(value, unit)  # type: ignore[arg-type]  # from the table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("400", "is '400'; it must be a number and a unit, as '400 steps'"),
        ("", "is ''; it must be a number and a unit"),
        ("-4 steps", "is '-4 steps'; it must be a number and a unit"),
        ("four steps", "is 'four steps'; it must be"),
        ("4 stpes", "is '4 stpes', whose unit 'stpes' is unknown"),
        ("0 steps", "is '0 steps'; it must be greater than 0"),
        ("1.5 steps", "is '1.5 steps'; steps must be a whole number"),
        ("1.23456k tokens", "tokens must be a whole number"),
    ],
)
def test_parse_says_what_is_allowed_when_text_is_none(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1000000001 steps", "must be at least 0.000001 and at most 1,000,000,000 steps"),
        ("2000T tokens", "at most 1,000,000,000,000,000 tokens"),
        ("0.0000001 epochs", "at least 0.000001"),
        ("9" * 400 + " steps", r"is '9{49}\.\.\.'; it must be a number and a unit"),
        ("0." + "0" * 50 + "1 epochs", "at least 0.000001"),
    ],
)
def test_parse_names_the_bounds_when_a_duration_is_beyond_them(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Duration.parse(text)


@pytest.mark.parametrize("text", ["9" * 5000 + "GB", "9" * 18 + "TB", "5 XB", "0GB"])
def test_parse_size_refuses_when_no_file_can_be_so_large(text: str) -> None:
    with pytest.raises(ValueError, match="it must be") as raised:
        parse_size(text)
    assert len(str(raised.value)) < 200


@given(st.integers(1, 10**6), st.sampled_from(["steps", "tokens", "epochs"]))
def test_str_parses_back_when_value_is_whole(value: int, unit: str) -> None:
    duration = Duration.parse(f"{value} {unit}")
    assert Duration.parse(str(duration)) == duration


@given(st.floats(1e-6, 1e6))
def test_str_parses_back_when_epochs_are_fractional(value: float) -> None:
    duration = Duration(value, "epochs")
    assert Duration.parse(str(duration)) == duration


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("7 steps", 7),
        ("1024 tokens", 2),
        ("1025 tokens", 3),
        ("1 token", 1),
        ("1.5 epochs", 15),
        ("0.01 epochs", 1),
        ("0.3 epochs", 3),
    ],
)
def test_steps_round_up_when_duration_is_no_multiple(text: str, steps: int) -> None:
    assert Duration.parse(text).steps(tokens_per_step=512, steps_per_epoch=10.0) == steps


@pytest.mark.parametrize(
    ("text", "seconds", "written"),
    [
        ("30 minutes", 1800, "30 minutes"),
        (" 1  minute ", 60, "1 minutes"),
        ("1.50 hours", 5400, "1.5 hours"),
        ("10 seconds", 10, "10 seconds"),
        ("100 hours", 360_000, "100 hours"),
    ],
)
def test_interval_of_time_is_read_and_written(text: str, seconds: float, written: str) -> None:
    interval = Interval.parse(text)
    assert (interval.seconds, interval.length, str(interval)) == (seconds, None, written)
    assert Interval.parse(written) == interval


def test_interval_of_training_is_a_duration() -> None:
    interval = Interval.parse("5M tokens")
    assert (interval.seconds, interval.length) == (None, Duration(5e6, "tokens"))
    assert str(interval) == "5000000 tokens"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("15", "it must be a number and a unit, as '500 steps', '5M tokens' or '15 minutes'"),
        ("15 min", "whose unit 'min' is unknown; it must be .* or '15 minutes'"),
        ("0 minutes", "it must be at least 1 seconds and at most 1000 hours"),
        ("0.1 seconds", "it must be at least 1 seconds"),
        ("1001 hours", "at most 1000 hours"),
        ("-5 minutes", "it must be a number and a unit"),
        ("9" * 400 + " hours", "it must be"),
    ],
)
def test_interval_says_what_is_allowed_when_text_is_none(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Interval.parse(text)
