"""What cannot be used of a source: refused, or left out and counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

OnError = Literal["stop", "skip"]


@dataclass(frozen=True)
class Row:
    """One row of a table, before it is known to be a sample.

    Attributes:
        path: The file or data set it is from.
        number: Which row or line it is, from 1; 0: it is the whole file.
        unit: What is counted.
        values: What it holds, by column.
    """

    path: str
    number: int
    unit: Literal["line", "row"]
    values: Mapping[str, object]

    @property
    def id(self) -> str:
        """Names it, as long as the files stay as they are."""
        return f"{self.path}:{self.number}" if self.number else self.path

    @property
    def folder(self) -> Path:
        """What paths in it are relative to."""
        return Path(self.path).parent


class RowFault(Exception):  # noqa: N818 - it is caught and counted, never shown as an error
    """A row that is no sample.

    Attributes:
        reason: As it is counted, in few words without values.
        found: What was found, completing "PLACE: ...".
        fix: What to do, a sentence.
    """

    def __init__(self, reason: str, found: str, fix: str) -> None:
        super().__init__(found)
        self.reason = reason
        self.found = found
        self.fix = fix


class Problems:
    """Meets every problem of one pass over a source.

    Attributes:
        counts: What was left out, by reason.
    """

    def __init__(self, on_error: OnError) -> None:
        self.counts: Counter[str] = Counter()
        self._is_skipped = on_error == "skip"

    def meet(self, fault: RowFault, place: str) -> None:
        """Counts a fault, or raises.

        Raises:
            DataError: What cannot be used shall not be left out.
        """
        if not self._is_skipped:
            raise DataError(
                f"{place}: {fault.found}. {fault.fix} Or set `on_error: skip` in the source's "
                "arguments, which leaves out and counts what cannot be used."
            )
        self.counts[fault.reason] += 1

    def meet_row(self, fault: RowFault, row: Row) -> None:
        """As `meet`, at the row's place."""
        at = f":{row.number}" if row.unit == "line" else f", row {row.number}"
        self.meet(fault, row.path + (at if row.number else ""))
