from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from phaseline.session.committed import CommittedLines, find_lost_lines
from phaseline.session.layout import SessionLayout
from phaseline.session.records import RecordWriter, count_lines, first_lines


@pytest.fixture
def layout(tmp_path: Path) -> SessionLayout:
    layout = SessionLayout(tmp_path / "session")
    layout.attempt(1).dir.mkdir(parents=True)
    return layout


def test_hash_is_of_the_lines_up_to_where_it_was_taken(layout: SessionLayout) -> None:
    path = layout.attempt(1).metrics_file
    writer = RecordWriter(path)
    taken = [writer.written]
    for step in range(5):
        writer.append([{"step": step}] * step)
        taken.append(writer.written)
    assert [one.lines for one in taken] == [0, 0, 1, 3, 6, 10]
    for one in taken:
        assert first_lines(path, one.lines) == one
    assert count_lines(path) == 10
    writer.close()
    # A later image of the attempt counts and hashes what is there.
    again = RecordWriter(path)
    assert again.written == taken[-1]
    again.close()


@pytest.mark.parametrize("cut", range(1, 12))
def test_hash_goes_on_over_a_torn_line(layout: SessionLayout, cut: int) -> None:
    path = layout.attempt(1).metrics_file
    writer = RecordWriter(path)
    writer.append([{"a": 1}, {"b": 22}])
    writer.close()
    os.truncate(path, path.stat().st_size - cut)
    writer = RecordWriter(path)
    torn = writer.written
    assert first_lines(path, torn.lines) == torn
    writer.append([{"c": 3}])
    whole = writer.written
    writer.close()
    # The torn line has an end now, and stays what was taken.
    assert first_lines(path, torn.lines) == torn
    assert first_lines(path, whole.lines) == whole


def test_every_byte_that_is_cut_or_changed_within_the_committed_lines_is_told(
    layout: SessionLayout,
) -> None:
    path = layout.attempt(1).metrics_file
    writer = RecordWriter(path)
    writer.append([{"step": 1}, {"step": 2}])
    committed = [CommittedLines(1, *writer.written)]
    size = path.stat().st_size
    writer.append([{"step": 3}])
    writer.close()
    whole = path.read_bytes()
    assert list(find_lost_lines(layout, committed)) == []
    for place, kind in itertools.product(range(size), ("cut", "flip")):
        changed = bytearray(whole)
        if kind == "cut":
            del changed[place:]
        else:
            changed[place] ^= 1
        path.write_bytes(changed)
        # A last line without its end is whole all the same.
        is_told = not (kind == "cut" and place == size - 1)
        assert bool(list(find_lost_lines(layout, committed))) is is_told, (place, kind)
    path.write_bytes(whole[:size] + b"anything")
    assert list(find_lost_lines(layout, committed)) == []


def test_missing_file_and_folder_are_told_with_how_much_is_gone(layout: SessionLayout) -> None:
    committed = [CommittedLines(1, 3, "x"), CommittedLines(2, 0, "y")]
    [problem] = find_lost_lines(layout, committed[:1])
    assert problem.startswith("attempts/0001/metrics.jsonl has lost 3 of the 3 line(s)")
