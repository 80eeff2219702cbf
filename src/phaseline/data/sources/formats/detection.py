"""Which reader a file needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from phaseline.data.sources.decompression import (
    READ_ERRORS,
    open_bytes,
    without_compression,
)
from phaseline.data.sources.formats.columnar import read_arrow, read_parquet
from phaseline.data.sources.formats.delimited import read_csv, read_tsv
from phaseline.data.sources.formats.json_text import read_json, read_json_lines
from phaseline.data.sources.formats.text import read_lines, read_text
from phaseline.errors import DataError, UnreachableFileError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from phaseline.data.sources.problems import Problems, Row

Format = Literal["text", "lines", "jsonl", "json", "csv", "tsv", "parquet", "arrow"]

_SUFFIXES: Mapping[str, Format] = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".rst": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_BY_MAGIC: tuple[tuple[bytes, Format], ...] = ((b"PAR1", "parquet"), (b"ARROW1", "arrow"))
_OF_TEXT = ("text", "lines")


def format_by_name(path: str) -> Format | None:
    """The format that a file's name tells, besides that of its compression."""
    return _SUFFIXES.get(Path(without_compression(path)).suffix.lower())


def is_named_as(path: str, wanted: Format | Literal["auto"]) -> bool:
    """Whether a file's name says that it has a format, or any format with `auto`."""
    found = format_by_name(path)
    if found in _OF_TEXT:
        return wanted in ("auto", *_OF_TEXT)
    return found is not None and wanted in ("auto", found)


def detect_format(path: str) -> Format:
    """The format by a file's name, or else by how it begins.

    Raises:
        DataError: Neither tells it.
    """
    found = format_by_name(path)
    if found is not None:
        return found
    try:
        with open_bytes(path) as file:
            start = file.read(8)
    except READ_ERRORS as error:
        UnreachableFileError.require_lasting(error, path)
        raise DataError(
            f"{path}: the beginning of the file cannot be read: {error}. Copy or download it again."
        ) from error
    for magic, by_magic in _BY_MAGIC:
        if start.startswith(magic):
            return by_magic
    raise DataError(
        f"{path}: neither the name nor the beginning of the file tells its format. Set `format` "
        "in the source's arguments to text, lines, jsonl, json, csv, tsv, parquet or arrow."
    )


def read_rows(
    path: str,
    kind: Format,
    problems: Problems,
    columns: Collection[str] | None,
    longest_mib: int,
) -> Iterator[Row]:
    """Yields a file's rows in order.

    Args:
        path: Of the file.
        kind: Its format.
        problems: Meets what cannot be used.
        columns: At most these are needed; None: all.
        longest_mib: Size of the longest line that is read, MiB.

    Raises one of `READ_ERRORS`, or ValueError, where the file is damaged.
    """
    if kind == "parquet":
        return read_parquet(path, problems, columns)
    if kind == "arrow":
        return read_arrow(path, problems, columns)
    if kind == "text":
        return read_text(path, problems)
    if kind == "json":
        return read_json(path, problems)
    by_line = {"lines": read_lines, "jsonl": read_json_lines, "csv": read_csv, "tsv": read_tsv}
    return by_line[kind](path, problems, longest_mib)
