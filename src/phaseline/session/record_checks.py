"""What a metric record and an event must hold, so that whoever reads one may rely on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from phaseline.config.sections import NAME_PATTERN
from phaseline.errors import ExitCode
from phaseline.session.stored import LARGEST_COUNT, LATEST_TIME, is_checkpoint_name

METRIC_KINDS: Final = ("train", "validation", "samples")
"""Of one step, in the order in which they are recorded."""
_COUNTS: Final = ("phase_step", "global_step", "tokens")
_CODES: Final = frozenset(map(int, ExitCode))
_NUMBERS: Final = frozenset({int, float})
_NO_NUMBERS: Final = frozenset({"nan", "inf", "-inf"})
"""How a record writes what JSON has no number for."""


def is_metric_record(record: Mapping[str, Any]) -> bool:
    """Whether an object is a metric record, with every field that readers use."""
    return (
        record.get("kind") in METRIC_KINDS
        and _is_name(record.get("phase"))
        and all(_is_count(record.get(name)) for name in _COUNTS)
        and all(_are_numbers(record.get(name)) for name in ("metrics", "timing"))
        and _is_time(record["timing"].get("time"))
        and _are_samples(record.get("samples", ()))
        and _is_text(record.get("sample_ids", ""))
    )


def is_event(record: Mapping[str, Any]) -> bool:
    """Whether an object is an event, with the fields that readers of its kind use."""
    kind = record.get("event")
    if not isinstance(kind, str) or not _is_time(record.get("time", 0)):
        return False
    return all(is_so(record.get(name)) for name, is_so in _FIELDS.get(kind, {}).items())


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_COUNT


def _is_count_or_none(value: object) -> bool:
    return value is None or _is_count(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and _is_number(value) and 0 <= value <= LATEST_TIME


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_name(value: object) -> bool:
    """Whether it can be a phase's: a plain name, of which paths are made."""
    return isinstance(value, str) and _is_plain(value)


@lru_cache
def _is_plain(name: str) -> bool:
    return NAME_PATTERN.fullmatch(name) is not None


def _is_recorded_number(value: object) -> bool:
    return value in _NO_NUMBERS if isinstance(value, str) else _is_number(value)


def _are_numbers(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    # One look at all types: a session may have millions of records.
    return _NUMBERS.issuperset(map(type, value.values())) or all(
        map(_is_recorded_number, value.values())
    )


def _are_samples(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(one, Mapping) and _is_text(one.get("prompt")) and _is_text(one.get("completion"))
        for one in value
    )


def _are_changes(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, Mapping) and _is_text(one.get("path")) for one in value
    )


def _are_sources(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, Mapping) and _is_text(one.get("phase")) for one in value
    )


_FIELDS: Final[Mapping[str, Mapping[str, Callable[[object], bool]]]] = {
    "phase_started": {
        "phase": _is_name,
        "phase_step": _is_count_or_none,
        "num_steps": _is_count_or_none,
    },
    "phase_finished": {"phase": _is_name, "phase_step": _is_count_or_none},
    "phase_stopped": {"phase": _is_name, "phase_step": _is_count_or_none},
    "phase_validated": {"phase": _is_name},
    "checkpoint_saved": {
        "phase": _is_name,
        "checkpoint": lambda value: isinstance(value, str) and is_checkpoint_name(value),
        "final": lambda value: isinstance(value, bool),
        "duration_s": lambda value: value is None or _is_number(value),
    },
    "checkpoint_rejected": {"problem": _is_text},
    "metrics_damaged": {"problem": _is_text},
    "environment_changed": {"problem": _is_text},
    "steps_repeated": {"problem": _is_text},
    "exported": {"phase": _is_name},
    "attempt_ended": {
        "code": lambda value: _is_count(value) and value in _CODES,
        "reason": _is_text,
    },
    "settings_changed": {"changes": _are_changes},
    "settings_accepted": {"changes": _are_changes},
    "data_prepared": {"sources": _are_sources},
}
"""By the kind of event, what it must hold. A kind that is not here is passed on as it is."""
