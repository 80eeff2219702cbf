"""Files of every format for tests, written from rows."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Rows = Sequence[dict[str, Any]]


def jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def delimited(rows: Rows, delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: Rows) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink, row_group_size=2)
    return bytes(sink.getvalue().to_pybytes())


def arrow(rows: Rows, *, is_stream: bool = False) -> bytes:
    table, sink = pa.Table.from_pylist(list(rows)), pa.BufferOutputStream()
    open_writer = pa.ipc.new_stream if is_stream else pa.ipc.new_file
    with open_writer(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return bytes(sink.getvalue().to_pybytes())


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    "jsonl": jsonl,
    "json": lambda rows: json.dumps(list(rows)).encode(),
    "csv": lambda rows: delimited(rows, ","),
    "tsv": lambda rows: delimited(rows, "\t"),
    "parquet": parquet,
    "arrow": arrow,
}
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
}


def save_dataset(folder: Path, rows: Rows) -> str:
    """What `save_to_disk` of the datasets library writes of one file."""
    folder.mkdir()
    (folder / "data-00000-of-00001.arrow").write_bytes(arrow(rows, is_stream=True))
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    return str(folder)
