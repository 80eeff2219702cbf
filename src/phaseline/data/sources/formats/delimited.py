"""CSV and TSV: the first line names the columns, every value is a text."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from phaseline.data.sources.decompression import open_bytes
from phaseline.data.sources.formats.text import bounded_lines
from phaseline.data.sources.problems import Problems, Row, RowFault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def read_csv(path: str, problems: Problems, longest_mib: int) -> Iterator[Row]:
    """Yields the rows of a file whose values are parted by commas."""
    return _read(path, ",", problems, longest_mib)


def read_tsv(path: str, problems: Problems, longest_mib: int) -> Iterator[Row]:
    """Yields the rows of a file whose values are parted by tabs."""
    return _read(path, "\t", problems, longest_mib)


def _read(path: str, delimiter: str, problems: Problems, longest_mib: int) -> Iterator[Row]:
    # A document may be longer than the 128 KiB that the module allows, but a quote that is
    # never closed must not take the rest of a large file into memory. The limit is the whole
    # process's; nothing else here reads CSV.
    csv.field_size_limit(longest_mib << 20)
    # What is no UTF-8 becomes surrogates, so that the rows behind it can still be read; a row
    # that holds any is refused when it becomes a sample.
    with (
        open_bytes(path) as file,
        io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        bounded = bounded_lines(text.readline, path, problems, longest_mib, instead="\n")
        lines = _lines(bounded, delimiter, path, problems)
        _, header = next(lines, (1, []))
        if not _is_header(header, path, problems):
            return
        for number, values in lines:
            row = Row(path, number, "line", dict(zip(header, values, strict=False)))
            if len(values) == len(header):
                yield row
            else:
                problems.meet_row(_ragged(len(values), len(header)), row)


def _lines(
    text: Iterable[str], delimiter: str, path: str, problems: Problems
) -> Iterator[tuple[int, list[str]]]:
    """Yields the first line and the values of every row that is not blank."""
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            fix = "Correct the quotes in it."
            problems.meet(RowFault("corrupt CSV", f"is no CSV: {error}", fix), f"{path}:{number}")
            continue
        if values is None:
            return
        if values:
            yield number, values


def _is_header(header: list[str], path: str, problems: Problems) -> bool:
    if header and len(set(header)) == len(header) and all(header):
        return True
    found = f"names the columns {header}, which are not all different and not empty"
    fix = "The first line must give every column a name of its own."
    problems.meet(RowFault("no column names", found, fix), f"{path}:1")
    return False


def _ragged(num_values: int, num_columns: int) -> RowFault:
    found = f"has {num_values} values, but the first line names {num_columns} columns"
    fix = "Quote values that hold a delimiter or a line end."
    return RowFault("another number of values", found, fix)
