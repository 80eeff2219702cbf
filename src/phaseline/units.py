"""Quantities with their unit: durations of training, and sizes of files.

A duration is written as a number and a unit: `400 steps`, `5M tokens`, `2 epochs`; a size as
`5GB`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

Unit = Literal["steps", "tokens", "epochs"]

MAX_DURATIONS: dict[Unit, int] = {"steps": 10**9, "tokens": 10**15, "epochs": 10**6}
"""The longest durations: what is counted from them stays within 64 bits."""

_SHORTEST = Decimal("1e-6")
_MOST_CHARACTERS = 60

DURATION_FORM = "a number and a unit, as '400 steps', '5M tokens' or '2 epochs'"
"""What a duration may be, for messages."""

INTERVAL_FORM = "a number and a unit, as '500 steps', '5M tokens' or '15 minutes'"
"""What an interval may be, for messages."""

_TIME_PATTERN = re.compile(
    r"\s*(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>second|minute|hour)s?\s*", re.ASCII
)
_SECONDS = {"second": 1, "minute": 60, "hour": 3600}
_SHORTEST_TIME_S = 1
_LONGEST_TIME_S = 1000 * 3600

# The scale is matched lazily: the `t` of `100 tokens` is none.
_PATTERN = re.compile(
    r"\s*(?P<number>[0-9][0-9_,]*(?:\.[0-9]+)?)\s*"
    r"(?P<scale>[kKmMbBgGtT]??)\s*(?P<unit>[a-zA-Z]+)\s*"
)
_SCALES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
_UNITS: dict[str, Unit] = {
    "step": "steps",
    "steps": "steps",
    "token": "tokens",
    "tokens": "tokens",
    "epoch": "epochs",
    "epochs": "epochs",
}

SIZE_FORM = "a size, as '5GB' or '500MB'"
"""What a size may be, for messages."""

_SIZE_PATTERN = re.compile(r"(?P<number>[1-9][0-9]{0,17}) ?(?P<unit>[KMGT]B|[KMGT]iB|B)")
_SIZE_SCALES: dict[str, int] = {"B": 1} | {
    f"{letter}{kind}": base**power
    for kind, base in (("B", 1000), ("iB", 1024))
    for power, letter in enumerate("KMGT", 1)
}


_MAX_SIZE = 10**18


def _shown(value: object) -> str:
    """A value in a message, not longer than a line."""
    text = repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:50]}...{text[-1]}"


def parse_size(text: str) -> int:
    """Bytes of `5GB`, `500MB` or `2GiB`.

    Raises:
        ValueError: The text is no size; the message says what is allowed.
    """
    match = _SIZE_PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"is {_shown(text)}; it must be {SIZE_FORM}")
    size = int(match["number"]) * _SIZE_SCALES[match["unit"]]
    if size > _MAX_SIZE:
        raise ValueError(f"is {text!r}; it must be at most {_MAX_SIZE // 10**12}TB")
    return size


def _schema_of(
    kind: type[object], parse: Callable[[str], object], form: str
) -> core_schema.CoreSchema:
    """How pydantic reads a text as an object of a kind, and writes it."""

    def validate(value: object) -> object:
        if isinstance(value, kind):
            return value
        if isinstance(value, str):
            return parse(value)
        found = "null" if value is None else _shown(value)
        raise ValueError(f"is {found}; it must be {form}")

    return core_schema.no_info_plain_validator_function(
        validate, serialization=core_schema.to_string_ser_schema()
    )


@dataclass(frozen=True)
class Duration:
    """A length of training. Steps are optimizer steps; epochs may be fractions.

    Attributes:
        value: The number, in `unit`; a whole number for steps and tokens.
        unit: `steps`, `tokens` or `epochs`.
    """

    value: float
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Reads `400 steps`, `5M tokens`, `1.5 epochs`.

        Raises:
            ValueError: The text is no duration; the message says what is allowed.
        """
        match = _PATTERN.fullmatch(text) if len(text) <= _MOST_CHARACTERS else None
        if match is None:
            raise ValueError(f"is {_shown(text)}; it must be {DURATION_FORM}")
        unit = _UNITS.get(match["unit"].lower())
        if unit is None:
            raise ValueError(
                f"is {text!r}, whose unit {match['unit']!r} is unknown; it must be {DURATION_FORM}"
            )
        # Decimal, because 4.35 * 100 is less than 435 in binary.
        number = Decimal(match["number"].replace("_", "").replace(",", ""))
        value = number * _SCALES[match["scale"].lower()]
        if value <= 0:
            raise ValueError(f"is {text!r}; it must be greater than 0")
        if unit != "epochs" and value != value.to_integral_value():
            raise ValueError(f"is {text!r}; {unit} must be a whole number")
        if not _SHORTEST <= value <= MAX_DURATIONS[unit]:
            raise ValueError(
                f"is {text!r}; it must be at least {_SHORTEST:f} and at most "
                f"{MAX_DURATIONS[unit]:,} {unit}"
            )
        return cls(float(value), unit)

    def __str__(self) -> str:
        """The text that `parse` reads back as the same duration."""
        whole = int(self.value)
        number = str(whole) if whole == self.value else format(Decimal(repr(self.value)), "f")
        return f"{number} {self.unit}"

    def steps(self, *, tokens_per_step: int, steps_per_epoch: float) -> int:
        """Optimizer steps that cover this duration, rounded up, at least 1.

        Args:
            tokens_per_step: Tokens that one optimizer step consumes.
            steps_per_epoch: Optimizer steps in one pass over the data.
        """
        exact = {
            "steps": self.value,
            "tokens": self.value / tokens_per_step,
            "epochs": self.value * steps_per_epoch,
        }[self.unit]
        # An exact multiple may come out a hair above the whole number in floating point.
        return max(1, -int(-(exact - 1e-9) // 1))

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return _schema_of(cls, cls.parse, DURATION_FORM)


@dataclass(frozen=True)
class Interval:
    """How far apart things are that happen again and again: in training, or in wall time.

    Attributes:
        length: Of training; None where it is a time.
        seconds: Of wall time; None where it is a length of training.
        text: As `parse` reads it back.
    """

    length: Duration | None
    seconds: float | None
    text: str

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Reads `500 steps`, `5M tokens`, `30 minutes`, `1.5 hours`.

        Raises:
            ValueError: The text is no interval; the message says what is allowed.
        """
        match = _TIME_PATTERN.fullmatch(text) if len(text) <= _MOST_CHARACTERS else None
        if match is None:
            try:
                length = Duration.parse(text)
            except ValueError as error:
                raise ValueError(str(error).replace(DURATION_FORM, INTERVAL_FORM)) from None
            return cls(length, None, str(length))
        number = Decimal(match["number"])
        seconds = float(number * _SECONDS[match["unit"]])
        if not _SHORTEST_TIME_S <= seconds <= _LONGEST_TIME_S:
            raise ValueError(
                f"is {text!r}; it must be at least {_SHORTEST_TIME_S} seconds and at most "
                f"{_LONGEST_TIME_S // 3600} hours"
            )
        return cls(None, seconds, f"{number.normalize():f} {match['unit']}s")

    def __str__(self) -> str:
        """The text that `parse` reads back as the same interval."""
        return self.text

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return _schema_of(cls, cls.parse, INTERVAL_FORM)


NEVER = Interval(None, None, "never")
"""Of what never happens."""
