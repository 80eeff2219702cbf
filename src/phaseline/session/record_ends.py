"""The last records of a long file of metrics, found without reading what stands before them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from phaseline.session.record_checks import is_metric_record
from phaseline.session.records import LONGEST_LINE_BYTES, parse_line

_BLOCK_BYTES = 1 << 16
_COUNTED_BYTES = 1 << 20


def ends_of_phases(path: Path, limit: int | None = None) -> Iterator[tuple[str, int]]:
    """Yields each phase of a file of metrics and the offset where its records end, last first.

    An attempt trains its phases one after the other, so where one ends is found by halving.

    Args:
        path: The file; it may be growing. None there: nothing is yielded.
        limit: Only what the first so many lines hold.
    """
    if limit == 0 or not path.is_file():
        return
    with path.open("rb") as file:
        end = _whole_lines_end(file) if limit is None else _offset_of_line(file, limit)
        while (last := next(_backwards(file, end), None)) is not None:
            yield last["phase"], end
            end = _first_of_phase(file, last["phase"], end)


def read_backwards(path: Path, end: int) -> Iterator[dict[str, Any]]:
    """Yields the metric records before an offset, the last one first."""
    with path.open("rb") as file:
        yield from _backwards(file, end)


def _first_of_phase(file: BinaryIO, phase: str, end: int) -> int:
    """Where the first record begins of a run of one phase's records, which ends at an offset."""
    low, high = 0, end  # whatever begins before `low` is of an earlier phase
    while low < high:
        middle = (low + high) // 2
        start, record = _first_record_from(file, middle, high)
        if record is None or record["phase"] == phase:
            # No line begins behind it, so that all that is left begins before.
            high = middle
        else:
            low = start
    return _line_start(file, low, end)


def _first_record_from(file: BinaryIO, offset: int, end: int) -> tuple[int, dict[str, Any] | None]:
    """The first metric record that begins at an offset or behind it, and where it ends."""
    position = _line_start(file, offset, end)
    while position < end:
        file.seek(position)
        line = file.readline(LONGEST_LINE_BYTES)
        if not line.endswith(b"\n"):
            position = _line_start(file, position + 1, end)
            continue
        position += len(line)
        record = parse_line(line)
        if record is not None and is_metric_record(record):
            return position, record
    return end, None


def _line_start(file: BinaryIO, offset: int, end: int) -> int:
    """The first offset from here on at which a line begins."""
    if offset == 0:
        return 0
    position = offset - 1
    while position < end:
        file.seek(position)
        block = file.read(min(_BLOCK_BYTES, end - position))
        found = block.find(b"\n")
        if found >= 0:
            return position + found + 1
        if not block:
            break
        position += len(block)
    return end


def _backwards(file: BinaryIO, end: int) -> Iterator[dict[str, Any]]:
    """Lines that are too long are passed over; at no time more than one is held."""
    rest, position, is_too_long = b"", end, False
    while position > 0 or rest:
        size = min(_BLOCK_BYTES, position)
        position -= size
        file.seek(position)
        block = file.read(size)
        *earlier, last = (block + rest).split(b"\n") if not is_too_long else block.split(b"\n")
        lines = [last, *reversed(earlier)]
        # The first of them may go on before this block.
        rest = lines.pop() if position > 0 else b""
        if is_too_long and lines:
            lines.pop(0)
            is_too_long = False
        for line in lines:
            record = parse_line(line) if line else None
            if record is not None and is_metric_record(record):
                yield record
        if len(rest) > LONGEST_LINE_BYTES or is_too_long:
            rest, is_too_long = b"", True


def _whole_lines_end(file: BinaryIO) -> int:
    """Behind the last line that is finished."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _offset_of_line(file: BinaryIO, number: int) -> int:
    """Behind so many lines, or behind all of them."""
    position, left = 0, number
    while block := file.read(_COUNTED_BYTES):
        count = block.count(b"\n")
        if count >= left:
            found = -1
            for _ in range(left):
                found = block.index(b"\n", found + 1)
            return position + found + 1
        left -= count
        position += len(block)
    return _whole_lines_end(file)
