"""A record with any field flipped is passed over, and breaks nobody who reads the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phaseline.session.records import read_events, read_metric_records, read_records

RECORD: dict[str, Any] = {
    "kind": "train",
    "phase": "a",
    "phase_step": 3,
    "global_step": 3,
    "tokens": 96,
    "metrics": {"a/train/loss": 1.5, "a/train/grad_norm": "nan"},
    "timing": {"time": 1.5},
}
EVENTS: list[dict[str, Any]] = [
    {"event": "phase_started", "phase": "a", "phase_step": 0, "num_steps": 3},
    {"event": "checkpoint_saved", "phase": "a", "checkpoint": "step-1.a0001", "final": True},
    {"event": "attempt_ended", "code": 75, "reason": "asked"},
    {"event": "settings_changed", "changes": [{"path": "session.notes"}]},
    {"event": "data_prepared", "sources": [{"phase": "a"}]},
    {"event": "exported", "phase": "a"},
]


def lines(folder: Path, *records: bytes) -> Path:
    path = folder / "records.jsonl"
    path.write_bytes(b"".join(record + b"\n" for record in records))
    return path


def encoded(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode()


@pytest.mark.parametrize("field", RECORD)
def test_metric_record_without_a_field_is_passed_over(tmp_path: Path, field: str) -> None:
    flipped = {f"{field[:-1]}~" if key == field else key: v for key, v in RECORD.items()}
    path = lines(tmp_path, encoded(RECORD), encoded(flipped), encoded(RECORD))
    assert list(read_metric_records(path)) == [RECORD, RECORD]


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "trian"},
        {"kind": ["train"]},
        {"phase": 3},
        {"phase_step": -1},
        {"phase_step": True},
        {"global_step": 1.5},
        {"tokens": "96"},
        {"metrics": []},
        {"metrics": {"a/train/loss": None}},
        {"metrics": {"a/train/loss": "high"}},
        {"timing": {}},
        {"timing": {"time": {}}},
        {"timing": {"time": 1e300}},
        {"timing": {"time": -1.0}},
        {"timing": {"time": float("inf")}},
        {"tokens": 10**400},
        {"tokens": 2**63},
        {"metrics": {"a/train/loss": float("nan")}},
        {"metrics": {"a/train/loss": 10**400}},
        {"samples": "text"},
        {"samples": [{"prompt": 3, "completion": ""}]},
    ],
)
def test_metric_record_with_a_wrong_value_is_passed_over(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    path = lines(tmp_path, encoded({**RECORD, **change}), encoded(RECORD))
    assert list(read_metric_records(path)) == [RECORD]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event["event"])
def test_event_is_read_and_without_a_field_of_its_kind_passed_over(
    tmp_path: Path, event: dict[str, Any]
) -> None:
    needed = [key for key in event if key not in ("phase_step", "num_steps")]
    for field in needed:
        rest = {key: value for key, value in event.items() if key != field}
        assert list(read_events(lines(tmp_path, encoded(rest), encoded(event)))) == [event]
        wrong = {**event, field: {"a": 1}}
        assert list(read_events(lines(tmp_path, encoded(wrong), encoded(event)))) == [event]


def test_event_of_a_kind_that_is_not_known_is_passed_on(tmp_path: Path) -> None:
    event = {"event": "seen_by_a_plugin", "time": 3, "what": [1]}
    assert list(read_events(lines(tmp_path, encoded(event)))) == [event]


def test_lines_that_are_damage_are_passed_over_and_counted(tmp_path: Path) -> None:
    damage = [b"\0" * 50, b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"3", b'{"kind"']
    path = lines(tmp_path, encoded({"a": 1}), *damage, encoded({"b": 2}))
    assert list(read_records(path)) == [{"a": 1}, {"b": 2}]
    # Else a line that the disk lost would move the count on to the one after it.
    assert list(read_records(path, len(damage) + 1)) == [{"a": 1}]
    assert list(read_records(path, len(damage) + 2)) == [{"a": 1}, {"b": 2}]


def test_line_that_is_too_long_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phaseline.session.records.LONGEST_LINE_BYTES", 20)
    long = encoded({"text": "x" * 70})
    # Its end looks like a record.
    path = lines(tmp_path, encoded({"a": 1}), long + b'{"c":3}', long, encoded({"b": 2}))
    assert list(read_records(path)) == [{"a": 1}, {"b": 2}]
    assert list(read_records(path, 3)) == [{"a": 1}]
    assert list(read_records(path, 4)) == [{"a": 1}, {"b": 2}]


def test_place_of_records_that_is_a_folder_holds_none(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    assert list(read_records(tmp_path / "metrics.jsonl")) == []


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint": "/etc/ssh"},
        {"checkpoint": "../../../keys"},
        {"checkpoint": "step-1/../../keys"},
        {"phase": "/etc"},
        {"phase": "../.."},
        {"phase": "a/b"},
    ],
)
def test_event_that_names_a_folder_elsewhere_is_none(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    for event in EVENTS:
        if change.keys() <= event.keys():
            assert list(read_events(lines(tmp_path, encoded({**event, **change})))) == []


@pytest.mark.parametrize("time", [1e300, -1, float("nan"), 10**400])
def test_event_of_no_moment_is_none(tmp_path: Path, time: float) -> None:
    event = {"event": "seen_by_a_plugin", "time": time}
    assert list(read_events(lines(tmp_path, encoded(event)))) == []


def test_number_that_json_has_not_is_found_beside_half_of_a_character(tmp_path: Path) -> None:
    text = '{"event": "x", "text": "\\ud83d", "n": %s}'
    found = [text % number for number in ("1", "1e400", "-1e400", "NaN", str(10**30))]
    path = lines(tmp_path, *(one.encode() for one in found))
    assert [one["n"] for one in read_records(path)] == [1]
