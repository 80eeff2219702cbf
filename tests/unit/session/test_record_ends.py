from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phaseline.session import record_ends, records
from phaseline.session.attempts import Adopted, last_place, take_attempt, write_adopted
from phaseline.session.layout import SessionLayout
from phaseline.session.metrics_view import read_metrics, read_newest
from phaseline.session.pace import step_seconds
from phaseline.session.record_ends import ends_of_phases, read_backwards
from phaseline.session.records import RecordWriter, read_metric_records
from unit.covered_lines import covered

NAMES = ("first", "second", "third")


def record(step: int, phase: str, kind: str = "train") -> dict[str, Any]:
    return {
        "kind": kind,
        "phase": phase,
        "phase_step": step,
        "global_step": step,
        "tokens": step,
        "metrics": {f"{phase}/{kind}/loss": float(step)},
        "timing": {"time": 2.0 * step},
    }


def line(step: int, phase: str) -> bytes:
    return json.dumps(record(step, phase)).encode() + b"\n"


def by_phase(path: Path, limit: int | None) -> list[tuple[str, list[int]]]:
    """What the ends of a file say, each phase with its steps, all of it from the back."""
    found = []
    for phase, end in ends_of_phases(path, limit):
        steps = []
        for one in read_backwards(path, end):
            if one["phase"] != phase:
                break
            steps.append(one["phase_step"])
        found.append((phase, steps))
    return found


def expected(path: Path, limit: int | None) -> list[tuple[str, list[int]]]:
    whole = list(read_metric_records(path, limit))
    groups = groupby(reversed(whole), key=lambda one: one["phase"])
    return [(phase, [one["phase_step"] for one in group]) for phase, group in groups]


@given(
    runs=st.lists(st.integers(0, 40), min_size=1, max_size=3),
    damage=st.lists(st.tuples(st.integers(0, 130), st.sampled_from([b"\n", b"{}\n", b"torn{\n"]))),
    limit=st.none() | st.integers(0, 140),
    is_torn=st.booleans(),
    block=st.sampled_from([7, 64, 5000]),
)
def test_ends_are_those_of_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[int],
    damage: list[tuple[int, bytes]],
    limit: int | None,
    is_torn: bool,
    block: int,
) -> None:
    phases = zip(runs, NAMES, strict=False)
    lines = [line(step, name) for count, name in phases for step in range(count)]
    for place, content in damage:
        lines.insert(min(place, len(lines)), content)
    path = tmp_path_factory.mktemp("ends") / "metrics.jsonl"
    path.write_bytes(b"".join(lines) + (line(999, "third")[:30] if is_torn else b""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_ends, "_BLOCK_BYTES", block)
        patch.setattr(record_ends, "_COUNTED_BYTES", block)
        assert by_phase(path, limit) == expected(path, limit)


@pytest.mark.parametrize("place", [0, 3, 5])
def test_line_that_is_too_long_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    for module in (records, record_ends):
        monkeypatch.setattr(module, "LONGEST_LINE_BYTES", 400)
    monkeypatch.setattr(record_ends, "_BLOCK_BYTES", 100)
    # Its end is a record of its own, if it is read from the wrong place.
    long = b"x" * 1600 + line(77, "second")
    lines = [
        *(line(step, "first") for step in range(3)),
        *(line(step, "second") for step in (3, 4)),
    ]
    lines.insert(place, long)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(lines))
    assert (
        by_phase(path, None) == expected(path, None) == [("second", [4, 3]), ("first", [2, 1, 0])]
    )


def test_missing_and_empty_files_have_no_ends(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert list(ends_of_phases(path)) == []
    path.write_bytes(b"")
    assert list(ends_of_phases(path)) == []


def write(layout: SessionLayout, committed: tuple[tuple[int, int], ...], *runs: range) -> Path:
    attempt = take_attempt(layout)
    write_adopted(attempt, Adopted((), None, covered(*committed)))
    writer = RecordWriter(attempt.metrics_file)
    for name, steps in zip(NAMES, runs, strict=False):
        writer.append([record(step, name) for step in steps])
    writer.append([record(steps[-1], name, "validation")])
    writer.close()
    return attempt.metrics_file


def test_newest_records_are_those_of_the_view(tmp_path: Path) -> None:
    layout = SessionLayout(tmp_path)
    assert read_newest(layout) == {}
    write(layout, (), range(1, 8), range(8, 20))
    write(layout, ((1, 10),), range(0), range(11, 13), range(13, 15))
    view = list(read_metrics(layout))
    for phase in NAMES:
        of_phase = [{**one} for one in view if one["phase"] == phase]
        newest = [{**one} for one in read_newest(layout)[phase]]
        assert newest == [{k: v for k, v in one.items() if k != "seq"} for one in of_phase[::-1]]


def test_little_is_read_of_a_long_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = SessionLayout(tmp_path)
    path = write(layout, (), range(1, 20_000), range(20_000, 40_000))
    seen: list[int] = []

    def parse(content: bytes) -> dict[str, Any] | None:
        seen.append(len(content))
        return records.parse_line(content)

    monkeypatch.setattr(record_ends, "parse_line", parse)
    newest = {phase: next(found) for phase, found in read_newest(layout).items()}
    assert [one["phase_step"] for one in newest.values()] == [39_999, 19_999]
    assert step_seconds(layout, "first") == 2.0
    assert step_seconds(layout) == 2.0
    assert step_seconds(layout, "third") is None
    assert last_place(layout.attempt(1)) == (None, None)
    assert sum(seen) < path.stat().st_size / 20
