"""The source `hub_dataset`: a data set of the Hugging Face Hub, or a folder laid out as one."""

from __future__ import annotations

import re
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from phaseline.config.hub import is_outage
from phaseline.config.places import place_of
from phaseline.data.file_digests import fingerprint_files
from phaseline.data.fingerprints import fingerprint_of
from phaseline.data.sources.formats.columnar import rows_of_batches
from phaseline.data.sources.problems import Problems
from phaseline.data.sources.row_source import RowSettings, RowSource
from phaseline.errors import DataError, HubOutageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import pyarrow as pa
    from typing_extensions import Unpack

    from phaseline.data.sources.problems import Row

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ROWS_AT_ONCE = 256


def hub_dataset(
    name: str,
    subset: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    **settings: Unpack[RowSettings],
) -> RowSource:
    """Yields a sample per row; the id is the name and the number of the row.

    Args:
        name: Of the data set, as `owner/name`, or a folder's path; a folder needs no network.
        subset: Its configuration, if it has several.
        split: Its split, or a part of one as `train[:10%]`; may be left out if there is one.
        revision: Branch, tag or commit. With a commit of 40 digits and named columns a start
            looks nothing up once the data is prepared.
        settings: How the rows are read.
    """
    table = HubTable(name, subset, split, revision)
    return RowSource(table, **settings)


class HubTable:
    """The rows of a data set, which the `datasets` library downloads and maps."""

    def __init__(
        self, name: str, subset: str | None, split: str | None, revision: str | None
    ) -> None:
        self.place = f"hub_dataset {name}"
        self._name = name
        self._subset = subset
        self._split = split
        self._revision = revision
        self._folder = place_of(name)

    def fingerprint(self) -> str:
        """Names the content: by the commit if one is given, else by the rows themselves."""
        if self._revision and _COMMIT.fullmatch(self._revision) and not self._folder.is_dir():
            return fingerprint_of(self._name, self._subset, self._split, self._revision)
        files = sorted(file["filename"] for file in self._dataset.cache_files)
        content = fingerprint_files(files)
        # A part of a split lies in the files of the whole one.
        return fingerprint_of(self._name, self._split, len(self._dataset), content)

    def rows(self, problems: Problems, columns: Collection[str] | None) -> Iterator[Row]:
        """Yields every row."""
        dataset = self._dataset
        if columns is not None:
            present = [name for name in dataset.column_names if name in columns]
            dataset = dataset.select_columns(present)
        yield from rows_of_batches(self._name, _batches(dataset), problems)

    def first_rows(self, problems: Problems, num_rows: int) -> Iterator[Row]:
        """Yields the first rows."""
        return islice(self.rows(problems, None), num_rows)

    @cached_property
    def _dataset(self) -> Any:
        # Not above: it takes seconds to import.
        import datasets

        failures = (OSError, ValueError, datasets.exceptions.DatasetsError)
        try:
            found = datasets.load_dataset(
                str(self._folder) if self._folder.is_dir() else self._name,
                self._subset,
                split=self._split,
                revision=self._revision,
            )
        except failures as error:
            kind = HubOutageError if is_outage(error) else DataError
            raise kind(self._unavailable(error)) from error
        if not isinstance(found, datasets.DatasetDict):
            return found
        if len(found) != 1:
            raise DataError(
                f"{self.place} has the splits {', '.join(found)}. Name one in the source's "
                f"arguments, as `split: {next(iter(found), 'train')}`."
            )
        return next(iter(found.values()))

    def _unavailable(self, error: Exception) -> str:
        said = " ".join(str(error).split())
        fix = "Correct the source's arguments."
        if isinstance(error, OSError) and not self._folder.is_dir():
            fix = (
                "Correct its name; if this machine has no network, run `phaseline prepare` once on "
                "one that has, with the same HF_HOME, or save the data set to a folder with "
                "`save_to_disk` and use the source saved_dataset."
            )
        return f"{self.place} cannot be loaded: {said.rstrip('.')}. {fix}"


def _batches(dataset: Any) -> Iterator[pa.RecordBatch]:
    # Arrow as it is stored: images stay bytes.
    for table in dataset.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
        yield from table.to_batches()
