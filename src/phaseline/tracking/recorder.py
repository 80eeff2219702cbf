"""Where the metric records of an attempt go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from phaseline.session.records import WrittenLines


class MetricRecorder(Protocol):
    """Appends metric records; `session.records.RecordWriter` is one."""

    @property
    def written(self) -> WrittenLines:
        """The lines that were written to this attempt's file so far."""

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Adds records at the end."""

    def sync(self) -> None:
        """Returns once everything appended is on the disk."""

    def close(self) -> None:
        """Ends the writing."""


class NullRecorder:
    """Writes nothing: what every rank but the main one has."""

    written = WrittenLines(0, "")

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Forgets the records."""

    def sync(self) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing to end."""
