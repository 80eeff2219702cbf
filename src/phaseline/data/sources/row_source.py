"""A source whose samples are the rows of a table: files, or a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypedDict

from phaseline.config.known_sources import shape_of_roles
from phaseline.config.places import place_of
from phaseline.data.file_digests import fingerprint_files
from phaseline.data.fingerprints import fingerprint_of
from phaseline.data.sources.columns import Columns, Given, are_complete, resolve_columns
from phaseline.data.sources.images import path_of_image
from phaseline.data.sources.problems import OnError, Problems, RowFault
from phaseline.data.sources.samples import LabelSettings, SampleReader
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from phaseline.data.sources.problems import Row
    from phaseline.data.sources.protocol import Sample, Shape

# Part of every fingerprint; raise it when the same rows become other samples.
_VERSION = 1
_ROWS_LOOKED_AT = 100


class Table(Protocol):
    """Rows from somewhere.

    Attributes:
        place: Names it in messages.
    """

    place: str

    def fingerprint(self) -> str:
        """Names the content of all rows. Must be cheap."""
        ...

    def rows(self, problems: Problems, columns: Collection[str] | None) -> Iterator[Row]:
        """Yields all rows, always in the same order.

        Args:
            problems: Meets what cannot be read.
            columns: Those that are needed, others may be absent; None: all.
        """
        ...

    def first_rows(self, problems: Problems, num_rows: int) -> Iterator[Row]:
        """Yields about so many rows from several places, to tell what the table holds."""
        ...


class RowSettings(TypedDict, total=False):
    """How rows are read: what a source takes besides its table, as `RowSource` explains it."""

    columns: Given | None
    shape: Shape | Literal["auto"]
    on_error: OnError
    classes: Sequence[str] | None
    resize: Sequence[int] | None
    channels: int | None


class RowSource:
    """Makes a sample of every row.

    What the rows are is known from the configuration, or recognised by the names of the
    columns of the first rows.
    """

    def __init__(
        self,
        table: Table,
        columns: Given | None = None,
        shape: Shape | Literal["auto"] = "auto",
        on_error: OnError = "stop",
        classes: Sequence[str] | None = None,
        resize: Sequence[int] | None = None,
        channels: int | None = None,
    ) -> None:
        """Takes what the rows are; reads nothing yet.

        Args:
            table: The rows.
            columns: Columns by role, as far as the configuration names them.
            shape: What the rows are; auto: recognised by the columns.
            on_error: stop: what cannot be used is refused; skip: it is counted.
            classes: Names of the labels, in order; None: labels are numbers.
            resize: Height and width that images are scaled to; None: as they are.
            channels: Of images, 1 or 3; None: as the first one has.
        """
        self._table = table
        self._given = columns or {}
        self._wanted = shape
        self._on_error: OnError = on_error
        size = (resize[0], resize[1]) if resize else None
        self._labels = LabelSettings(tuple(classes) if classes else None, size, channels)
        self._columns: Columns | None = None
        self._problems = Problems(on_error)

    @property
    def shape(self) -> Shape:
        """What its samples are."""
        known = shape_of_roles(self._given) if self._wanted == "auto" else self._wanted
        return known or self._resolved().shape

    @property
    def skipped(self) -> Mapping[str, int]:
        """What the last pass left out, by reason."""
        return self._problems.counts

    @property
    def classes(self) -> Sequence[str] | None:
        """Names of the labels, in order; None if they were not given."""
        return self._labels.classes

    @property
    def description(self) -> str:
        """Which columns are read as what, if that was recognised; else empty."""
        columns = self._resolved()
        return str(columns) if columns.is_recognised else ""

    def check(self) -> None:
        """Makes samples of the first rows.

        Raises:
            DataError: They cannot be used.
        """
        reader = SampleReader(self._resolved(), self._labels)
        problems = Problems(self._on_error)
        num_good = sum(1 for _ in self._samples(self._first_rows(problems), reader, problems))
        if num_good == 0:
            reasons = ", ".join(f"{count} {reason}" for reason, count in problems.counts.items())
            raise DataError(
                f"{self._table.place}: none of the first rows can be used ({reasons or 'no rows'})."
                " Set `on_error: stop` in the source's arguments to see what is wrong with them."
            )

    def fingerprint(self) -> str:
        """Names the rows and how they are read."""
        # on_error is part of it: a store without the rows that were left out must not serve a
        # session that shall stop at them.
        settings = (sorted(self._given.items()), self._wanted, self._on_error, repr(self._labels))
        parts = [_VERSION, self._table.fingerprint(), settings]
        if self.shape == "labelled" and "image" in self._resolved().roles:
            parts += self._image_parts()
        return f"rows-{fingerprint_of(*parts)}"

    def samples(self) -> Iterator[Sample]:
        """Yields a sample of every row that is one.

        Raises:
            DataError: A row is none, and shall not be left out.
        """
        columns = self._resolved()
        self._problems = Problems(self._on_error)
        rows = self._table.rows(self._problems, columns.names)
        yield from self._samples(rows, SampleReader(columns, self._labels), self._problems)

    def _samples(
        self, rows: Iterator[Row], reader: SampleReader, problems: Problems
    ) -> Iterator[Sample]:
        for row in rows:
            try:
                sample = reader.read(row)
            except RowFault as fault:
                problems.meet_row(fault, row)
                continue
            yield sample

    def _resolved(self) -> Columns:
        if self._columns is None:
            present = () if are_complete(self._given, self._wanted) else self._present()
            self._columns = resolve_columns(self._given, self._wanted, present, self._table.place)
        return self._columns

    def _present(self) -> Collection[str]:
        """The columns of the first rows."""
        # What is wrong with the values is said when rows become samples.
        rows = list(self._first_rows(Problems(self._on_error)))
        if not rows:
            raise DataError(
                f"{self._table.place}: there are no rows that can be read. Correct the source's "
                "arguments or its files."
            )
        return dict.fromkeys(name for row in rows for name in row.values)

    def _first_rows(self, problems: Problems) -> Iterator[Row]:
        return self._table.first_rows(problems, _ROWS_LOOKED_AT)

    def _image_parts(self) -> list[object]:
        """What decides pixels besides the table: the decoder, and files that it names."""
        from PIL import __version__ as pillow_version

        column = str(self._resolved().roles["image"])
        first = next(self._first_rows(Problems("skip")), None)
        if first is None or path_of_image(first.values.get(column)) is None:
            return [pillow_version]
        paths = [
            row.folder / path
            for row in self._table.rows(Problems("skip"), [column])
            if (path := path_of_image(row.values.get(column))) is not None
        ]
        present = [str(path) for path in paths if place_of(str(path)).is_file()]
        return [pillow_version, present, fingerprint_files(present)]
