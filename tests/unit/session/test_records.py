from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest

from phaseline.session.records import RecordWriter, read_records
from unit.session.conftest import StartPython, first_line

WRITE_FOREVER = """
import itertools, sys
from pathlib import Path
from phaseline.session.records import RecordWriter
writer = RecordWriter(Path(sys.argv[1]))
first = writer.num_lines
for number in itertools.count(first):
    writer.append([{"number": number, "text": "x" * 50_000}])
    if number == first + 20:
        print("writing", flush=True)
"""

RUN_OUT_OF_SPACE = """
import resource, sys
from pathlib import Path
from phaseline.session.records import RecordWriter
writer = RecordWriter(Path(sys.argv[1]))
writer.append([{"number": 0}])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
try:
    writer.append([{"number": "lost" * 10}])
except OSError as error:
    print(type(error).__name__, error.filename == sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
writer.append([{"number": 1}])
print(writer.num_lines)
"""


def _write(path: Path, *records: dict[str, object]) -> int:
    writer = RecordWriter(path)
    writer.append(records)
    writer.close()
    return writer.num_lines


def test_read_records_yields_nothing_when_there_is_no_file(tmp_path: Path) -> None:
    assert list(read_records(tmp_path / "metrics.jsonl")) == []


def test_writer_counts_what_earlier_writers_wrote(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert _write(path, {"a": 1}, {"a": 2}) == 2
    assert _write(path) == 2
    assert _write(path, {"a": 3}) == 3
    assert list(read_records(path)) == [{"a": 1}, {"a": 2}, {"a": 3}]


@pytest.mark.parametrize(("limit", "expected"), [(0, []), (1, [1]), (2, [1, 2]), (9, [1, 2, 3])])
def test_read_records_stops_at_the_limit(tmp_path: Path, limit: int, expected: list[int]) -> None:
    path = tmp_path / "metrics.jsonl"
    _write(path, {"a": 1}, {"a": 2}, {"a": 3})
    assert [record["a"] for record in read_records(path, limit)] == expected


def test_writer_writes_words_when_numbers_are_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    _write(path, {"a": math.nan, "b": {"c": [math.inf, -math.inf, 1.5]}, "d": (0, None, "ü\n")})
    (record,) = read_records(path)
    assert record == {"a": "nan", "b": {"c": ["inf", "-inf", 1.5]}, "d": [0, None, "ü\n"]}
    assert math.isnan(float(record["a"]))


def test_writer_takes_what_its_fast_encoder_does_not(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    half = "\ud800"
    records: list[dict[str, object]] = [{"a": half}, {"b": np.float64(0.1)}, {"c": "null"}]
    _write(path, *records)
    assert list(read_records(path)) == [{"a": half}, {"b": 0.1}, {"c": "null"}]


@pytest.mark.parametrize("number", [0.1, 1e-323, 1.7976931348623157e308, -0.0, 1e16, 3e-05])
def test_number_is_read_as_the_bits_that_were_written(tmp_path: Path, number: float) -> None:
    path = tmp_path / "metrics.jsonl"
    _write(path, {"a": number})
    (record,) = read_records(path)
    assert struct.pack("d", record["a"]) == struct.pack("d", number)


def test_writer_refuses_what_json_has_no_word_for(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        _write(tmp_path / "metrics.jsonl", {"a": object()})


def test_writer_loses_only_what_was_torn_when_the_file_ends_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    _write(path, {"a": 1}, {"b": {"c": 2}})
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        # A record that lacks but its newline is whole: no shorter text of it is an object.
        num_kept = int(size >= len(b'{"a":1}')) + int(size >= len(whole) - 1)
        num_lines = whole[:size].count(b"\n") + (not whole[:size].endswith(b"\n") and size > 0)
        assert _write(path, {"d": 4}) == num_lines + 1
        expected = [{"a": 1}, {"b": {"c": 2}}][:num_kept]
        assert list(read_records(path)) == [*expected, {"d": 4}]
        assert _write(path) == num_lines + 1


def test_read_records_leaves_out_a_last_line_that_is_still_being_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a":1}\n{"a":2}')
    assert list(read_records(path)) == [{"a": 1}]


def test_read_records_passes_over_lines_that_are_no_objects(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'\n{"a":\n3\n\xff\xfe\n[1]\n{"a":1}\n')
    assert list(read_records(path)) == [{"a": 1}]
    assert _write(path) == 6


def test_read_records_takes_no_later_line_when_the_disk_lost_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    _write(path, {"a": 1}, {"a": 2}, {"a": 3})
    path.write_bytes(path.read_bytes().replace(b'{"a":2}', b'{"a"\0\0\0'))
    assert list(read_records(path, 2)) == [{"a": 1}]


def test_records_stay_in_sequence_when_writers_are_killed(
    tmp_path: Path, start_python: StartPython
) -> None:
    path = tmp_path / "metrics.jsonl"
    for _ in range(3):
        writer = start_python(WRITE_FOREVER, path)
        assert first_line(writer) == "writing"
        writer.kill()
        writer.wait()
    # A killed writer may leave half a line, which holds no record and keeps its number.
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [idx for idx, line in enumerate(lines) if line.endswith(b"}\n")]
    assert [record["number"] for record in read_records(path)] == whole
    assert len(whole) >= len(lines) - 3


def test_writer_goes_on_with_a_line_of_its_own_when_a_write_failed_halfway(
    tmp_path: Path, start_python: StartPython
) -> None:
    path = tmp_path / "metrics.jsonl"
    words = start_python(RUN_OUT_OF_SPACE, path).communicate()[0].split()
    assert words == ["OSError", "True", "3"]  # what was begun is a line too
    assert path.stat().st_size > 20
    assert list(read_records(path)) == [{"number": 0}, {"number": 1}]


def test_writer_can_be_synced_and_closed_twice(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "events.jsonl")
    writer.append([{"event": "a"}])
    writer.sync()
    writer.close()
    writer.close()
    assert list(read_records(tmp_path / "events.jsonl")) == [{"event": "a"}]
