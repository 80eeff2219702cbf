"""The session's metrics view, read on and on while it grows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phaseline.session.attempts import Adopted, read_adopted
from phaseline.session.layout import SessionLayout
from phaseline.session.metrics_view import number_of
from phaseline.session.record_checks import is_metric_record
from phaseline.session.records import LONGEST_LINE_BYTES, parse_line, read_metric_records


class ViewTail:
    """Yields the view's records, as `read_metrics` would, but each only once per attempt.

    Each also says which attempt recorded it.

    When a newer attempt decides the view, it begins anew: the new view repeats what the attempt
    stands on, and bit for bit what it trains again.
    """

    def __init__(self, layout: SessionLayout) -> None:
        """Reads nothing yet."""
        self._layout = layout
        self._attempt: int | None = None
        self._tail: FileTail | None = None

    def read_new(self) -> Iterator[dict[str, Any]]:
        """Yields what was added since the last time, each with its `seq`; read it to its end."""
        for number in reversed(self._layout.attempt_numbers()):
            if number == self._attempt:
                break
            adopted = read_adopted(self._layout.attempt(number))
            if adopted is not None:
                yield from self._begin(number, adopted)
                break
        if self._tail is not None:
            yield from _numbered(filter(is_metric_record, self._tail.read_new()), self._attempt)

    def _begin(self, number: int, adopted: Adopted) -> Iterator[dict[str, Any]]:
        self._attempt = number
        self._tail = FileTail(self._layout.attempt(number).metrics_file)
        for part in adopted.committed:
            path = self._layout.attempt(part.attempt).metrics_file
            yield from _numbered(read_metric_records(path, part.lines), part.attempt)


class FileTail:
    """Reads the records that are added to a file; a last one without its end waits."""

    def __init__(self, path: Path) -> None:
        """Reads nothing yet."""
        self._path = path
        self._offset = 0
        self._is_in_long_line = False

    def read_new(self) -> Iterator[dict[str, Any]]:
        """Yields what was added since the last time."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            while line := file.readline(LONGEST_LINE_BYTES):
                is_whole = line.endswith(b"\n")
                if not is_whole and len(line) < LONGEST_LINE_BYTES:
                    return
                self._offset += len(line)
                # Of a line that is too long nothing is a record, whatever its end looks like.
                record = None if self._is_in_long_line or not is_whole else parse_line(line)
                self._is_in_long_line = not is_whole
                if record is not None:
                    yield record


def _numbered(records: Iterator[dict[str, Any]], attempt: int | None) -> Iterator[dict[str, Any]]:
    for record in records:
        record["seq"], record["attempt"] = number_of(record), attempt
        yield record
