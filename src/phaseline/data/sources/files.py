"""The sources `files` and `text_files`: rows, lines or whole files."""

from __future__ import annotations

from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Literal

from phaseline.data.file_digests import fingerprint_files
from phaseline.data.fingerprints import fingerprint_of
from phaseline.data.sources.decompression import READ_ERRORS
from phaseline.data.sources.formats.detection import Format, detect_format, is_named_as, read_rows
from phaseline.data.sources.paths import list_files
from phaseline.data.sources.problems import OnError, Problems, RowFault
from phaseline.data.sources.row_source import RowSettings, RowSource
from phaseline.errors import DataError, UnreachableFileError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from typing_extensions import Unpack

    from phaseline.data.sources.problems import Row

_TEXT_COLUMN = {"text": "text"}
_FILES_LOOKED_AT = 8
LONGEST_LINE_MIB = 32
"""Of a line, unless the configuration says otherwise."""


def text_files(paths: Sequence[str], on_error: OnError = "stop") -> RowSource:
    """Yields one document per file, sorted by path; the id is the path.

    Args:
        paths: Files, folders and patterns; of a folder, text files by their names.
        on_error: stop: a file that cannot be used is refused; skip: it is counted.
    """
    table = FileTable("text_files", paths, "text")
    return RowSource(table, dict(_TEXT_COLUMN), on_error=on_error)


def files(
    paths: Sequence[str],
    format: Format | Literal["auto"] = "auto",  # noqa: A002 - as the configuration calls it
    longest_line_mib: int = LONGEST_LINE_MIB,
    **settings: Unpack[RowSettings],
) -> RowSource:
    """Yields a sample per row, in the order of the sorted paths; the id is path and number.

    Args:
        paths: Files, folders and patterns.
        format: Of all files; auto: of each by its name or how it begins.
        longest_line_mib: Longer lines, in MiB, cannot be used.
        settings: How the rows are read.
    """
    table = FileTable("files", paths, format, longest_mib=longest_line_mib)
    if table.is_text:
        settings["columns"] = {**_TEXT_COLUMN, **(settings.get("columns") or {})}
    return RowSource(table, **settings)


class FileTable:
    """The rows of files, one after the other."""

    def __init__(
        self,
        owner: str,
        paths: Sequence[str],
        kind: Format | Literal["auto"],
        *,
        longest_mib: int = LONGEST_LINE_MIB,
    ) -> None:
        """Lists the files.

        Args:
            owner: Name of the source.
            paths: Files, folders and patterns.
            kind: Format of all files, or auto.
            longest_mib: Size of the longest line that is read, MiB.

        Raises:
            DataError: There are none.
        """
        self.paths = list_files(owner, paths, partial(is_named_as, wanted=kind))
        self.place = self.paths[0] if len(self.paths) == 1 else f"{owner} {list(paths)}"
        self._kind = kind
        self._longest_mib = longest_mib

    @cached_property
    def _formats(self) -> dict[str, Format]:
        if self._kind != "auto":
            return dict.fromkeys(self.paths, self._kind)
        found = {path: detect_format(path) for path in self.paths}
        texts = [path for path, kind in found.items() if kind == "text"]
        others = [path for path in self.paths if found[path] != "text"]
        if texts and others:
            raise DataError(
                f"{self.place}: {texts[0]} is plain text, {others[0]} has rows. Name the files "
                "by a pattern, as 'data/*.jsonl', or set `format` in the source's arguments."
            )
        return found

    @property
    def is_text(self) -> bool:
        """Whether the files have no columns but that of their text."""
        return all(kind in ("text", "lines") for kind in self._formats.values())

    def fingerprint(self) -> str:
        """Names paths, formats and contents, and what is left out of them."""
        parts: list[object] = [list(self._formats.items()), fingerprint_files(self.paths)]
        if self._longest_mib != LONGEST_LINE_MIB:
            parts.append(self._longest_mib)
        return fingerprint_of(*parts)

    def rows(self, problems: Problems, columns: Collection[str] | None) -> Iterator[Row]:
        """Yields every row of every file; what a damaged file holds up to there as well."""
        for path in self.paths:
            yield from self._rows_of(path, problems, columns)

    def first_rows(self, problems: Problems, num_rows: int) -> Iterator[Row]:
        """Yields the first rows of some files, spread evenly."""
        paths = self.paths[:: -(-len(self.paths) // _FILES_LOOKED_AT)]
        for path in paths:
            yield from islice(self._rows_of(path, problems, None), -(-num_rows // len(paths)))

    def _rows_of(
        self, path: str, problems: Problems, columns: Collection[str] | None
    ) -> Iterator[Row]:
        try:
            kind = self._formats[path]
            yield from read_rows(path, kind, problems, columns, self._longest_mib)
        except (*READ_ERRORS, ValueError, NotImplementedError) as error:
            # Else the rest of it would be left out, and the store without it be kept.
            UnreachableFileError.require_lasting(error, path)
            problems.meet(
                RowFault(
                    "a damaged file",
                    f"the file cannot be read{'' if not str(error) else f' to its end: {error}'}",
                    "Copy or download it again.",
                ),
                path,
            )
