"""Parquet and Arrow files, and batches of Arrow rows from anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phaseline.config.places import located
from phaseline.data.sources.problems import Problems, Row, RowFault

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    import pyarrow as pa

# Rows that are turned into Python objects at once: few, because each may be a whole document.
_ROWS_AT_ONCE = 64


def read_parquet(
    path: str, problems: Problems, columns: Collection[str] | None = None
) -> Iterator[Row]:
    """Yields the rows of a Parquet file; a row group is read piece by piece.

    Args:
        path: Of the file.
        problems: Meets what is damaged.
        columns: Those that are needed; None: all.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(located(path), memory_map=True) as file:
        names = _needed(file.schema_arrow.names, columns)
        batches = file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=names)
        yield from rows_of_batches(path, batches, problems)


def read_arrow(
    path: str, problems: Problems, columns: Collection[str] | None = None
) -> Iterator[Row]:
    """Yields the rows of an Arrow IPC file or stream, mapped and not read into memory."""
    import pyarrow as pa

    with pa.memory_map(located(path)) as file:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        if is_file:
            opened = pa.ipc.open_file(file)
            batches = (opened.get_batch(idx) for idx in range(opened.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(file))
        selected = (batch.select(_needed(batch.schema.names, columns)) for batch in batches)
        yield from rows_of_batches(path, selected, problems)


def rows_of_batches(
    path: str, batches: Iterable[pa.RecordBatch], problems: Problems
) -> Iterator[Row]:
    """Yields the rows of batches, counted from 1 through all of them."""
    number = 0
    for batch in batches:
        for first in range(0, batch.num_rows, _ROWS_AT_ONCE):
            piece = batch.slice(first, _ROWS_AT_ONCE)
            for values in _to_python(piece):
                number += 1
                if values is not None:
                    yield Row(path, number, "row", values)
                    continue
                fault = RowFault("not UTF-8", "holds text that is not UTF-8", "Write it anew.")
                problems.meet_row(fault, Row(path, number, "row", {}))


def _to_python(batch: pa.RecordBatch) -> Iterator[dict[str, object] | None]:
    """The rows as dictionaries; None for one whose text is no UTF-8."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        # Raised before the first row is given, so none comes twice.
        for idx in range(batch.num_rows):
            try:
                yield batch.slice(idx, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield None


def _needed(names: Iterable[str], columns: Collection[str] | None) -> list[str]:
    return [name for name in names if columns is None or name in columns]
