"""Records that are appended, one JSON object per line, and survive a writer's death.

A writer that dies may leave a torn last line. Nobody repairs it: the next writer begins on
a line of its own, and readers pass over what is no object. Every line counts as one, also what
is no object: else a line that the disk lost would move the count on to the one after it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import xxhash

from phaseline.session.files import named
from phaseline.session.record_checks import is_event, is_metric_record

LONGEST_LINE_BYTES = 1 << 24
"""No record is longer, 16 MiB: what is, is damage, and would fill the memory."""
_BLOCK_BYTES = 1 << 20
_MOST_BITS = 64
_END = b"\n"


class WrittenLines(NamedTuple):
    """The lines of a file of records, as far as they go, and the hash that proves them.

    Attributes:
        lines: How many.
        hash: xxh3-128 of their bytes, each line with its end.
    """

    lines: int
    hash: str


class PassedOver:
    """How many lines held no record, in files that were read to their ends.

    Attributes:
        lines: So many.
    """

    def __init__(self) -> None:
        self.lines = 0


class RecordWriter:
    """Appends records to one file. One writer per file: its attempt's main rank."""

    def __init__(self, path: Path) -> None:
        """Opens the file at its end, and makes it if need be."""
        self._num_ends = 0
        self._is_torn = False
        self._digest = xxhash.xxh3_128()
        if path.exists():
            for block in _blocks(path):
                self._take(block)
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._is_open = True

    @property
    def num_lines(self) -> int:
        """Lines in the file, those of earlier writers and torn ones included."""
        return self._num_ends + self._is_torn

    @property
    def written(self) -> WrittenLines:
        """The lines in the file, with their hash; a torn last one counts as ended."""
        digest = self._digest.copy()
        if self._is_torn:
            digest.update(_END)
        return WrittenLines(self.num_lines, digest.hexdigest())

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Adds records at the end, all in one write. NaN and infinities become strings."""
        if not records:
            return
        rest = b"".join([encode(record) for record in records])
        if self._is_torn:
            rest = _END + rest  # whatever comes next begins on a line of its own
        while rest:
            with named(self._path):
                size = os.write(self._descriptor, rest)
            self._take(rest[:size])
            rest = rest[size:]

    def sync(self) -> None:
        """Makes what was appended survive a power cut."""
        with named(self._path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Ends the writing; a second call does nothing."""
        if self._is_open:
            self._is_open = False
            os.close(self._descriptor)

    def _take(self, data: bytes) -> None:
        """Counts bytes that are in the file now."""
        self._num_ends += data.count(_END)
        self._is_torn = not data.endswith(_END)
        self._digest.update(data)


def count_lines(path: Path) -> int:
    """Lines of a file, a torn last one too; none if there is no file."""
    num_ends, is_torn = 0, False
    for block in _blocks(path) if path.is_file() else ():
        num_ends += block.count(_END)
        is_torn = not block.endswith(_END)
    return num_ends + is_torn


def first_lines(path: Path, limit: int) -> WrittenLines:
    """The first so many lines of a file, or as many as it has. Reads no more than they are.

    Args:
        path: The file; one that is not there has no lines.
        limit: How many are asked for.

    Raises:
        OSError: The file cannot be read.
    """
    digest, num_lines, is_torn = xxhash.xxh3_128(), 0, False
    for block in _blocks(path) if limit and path.is_file() else ():
        num_ends = block.count(_END)
        if num_lines + num_ends >= limit:
            end = 0
            for _ in range(limit - num_lines):
                end = block.index(_END, end) + 1
            digest.update(block[:end])
            return WrittenLines(limit, digest.hexdigest())
        digest.update(block)
        num_lines += num_ends
        is_torn = not block.endswith(_END)
    if is_torn:
        digest.update(_END)
    return WrittenLines(num_lines + is_torn, digest.hexdigest())


def read_records(
    path: Path, limit: int | None = None, *, skip: int = 0, passed_over: PassedOver | None = None
) -> Iterator[dict[str, Any]]:
    """Yields whole objects in order; none if there is no file.

    Args:
        path: The file; it may be growing.
        limit: Only what the first so many lines hold.
        skip: Only what comes after so many lines.
        passed_over: Counts lines that hold no object.
    """
    if limit == 0 or not path.is_file():
        return
    counted = passed_over or PassedOver()
    for position, line in enumerate(_lines(path), start=1):
        if not line.endswith(b"\n"):
            return
        if position > skip:
            record = parse_line(line)
            if record is None:
                counted.lines += 1
            else:
                yield record
        if position == limit:
            return


def read_metric_records(
    path: Path, limit: int | None = None, *, skip: int = 0, passed_over: PassedOver | None = None
) -> Iterator[dict[str, Any]]:
    """As `read_records`, of a file of metrics: what is no metric record is passed over."""
    counted = passed_over or PassedOver()
    for record in read_records(path, limit, skip=skip, passed_over=counted):
        if is_metric_record(record):
            yield record
        else:
            counted.lines += 1


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """As `read_records`, of a file of events: what is no event is passed over."""
    return filter(is_event, read_records(path))


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None if it holds none."""
    if len(line) > LONGEST_LINE_BYTES:
        return None
    try:
        record = orjson.loads(line)
    except ValueError:
        try:
            # Half of a character, which the fast one does not take.
            record = json.loads(line, parse_constant=_refuse, parse_int=_whole, parse_float=_finite)
        except (ValueError, RecursionError):  # torn by a crash, or damaged
            return None
    return record if isinstance(record, dict) else None


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _whole(digits: str) -> int:
    number = int(digits)
    if number.bit_length() > _MOST_BITS:
        raise ValueError(f"{digits[:20]}... is larger than any number that was written")
    return number


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is larger than any number that was written")
    return number


def _lines(path: Path) -> Iterator[bytes]:
    """Yields every line, an unfinished last one too; of a line that is too long its end alone."""
    with path.open("rb") as file:
        is_begun = False
        while line := file.readline(LONGEST_LINE_BYTES):
            is_whole = line.endswith(b"\n") or len(line) < LONGEST_LINE_BYTES
            if is_whole:
                # What was left of one that is too long is no record, whatever it looks like.
                yield b"\n" if is_begun else line
            is_begun = not is_whole


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def encode(record: Mapping[str, Any]) -> bytes:
    """A line, with its end. There may be millions, so by the fast encoder where that is right."""
    try:
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # It takes neither halves of characters, as a model may write, nor subclasses of floats.
        line = b"null"
    # What it writes for a NaN.
    if b"null" in line:
        text = json.dumps(_without_nan(record), allow_nan=False, separators=(",", ":"))
        line = f"{text}\n".encode()
    return line


def _without_nan(value: object) -> object:
    """Writes floats that JSON does not know as `nan`, `inf`, `-inf`."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return value
