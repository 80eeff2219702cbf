"""The session's metrics as one stream: every step once, whatever was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

from phaseline.session.attempts import read_adopted
from phaseline.session.layout import SessionLayout
from phaseline.session.record_checks import METRIC_KINDS
from phaseline.session.record_ends import ends_of_phases, read_backwards
from phaseline.session.records import PassedOver, read_metric_records

_RECORDS_PER_STEP: Final = 5
"""The three, and validation and samples at the start of the next phase."""


def number_of(record: Mapping[str, Any]) -> int:
    """The place of a metric record in its session: what comes later has a higher one.

    It follows from the step and the kind alone, so it stays as it is when an accepted change
    adds or drops other records: a tracker knows by it what it has. Not every place is taken.
    """
    place = METRIC_KINDS.index(record["kind"])
    if record["phase_step"] == 0:
        place += 2
    return _RECORDS_PER_STEP * int(record["global_step"]) + place


def read_metrics(
    layout: SessionLayout, phase: str | None = None, *, say: Callable[[str], None] | None = None
) -> Iterator[dict[str, Any]]:
    """Yields the metric records that the session stands on, in order.

    The newest attempt that knows what it stands on decides: of each earlier attempt the
    records that its checkpoint covers, then all of its own. What an earlier attempt
    appends later, or recorded after the checkpoint, was replayed or will be.

    Args:
        layout: The session; it may be running.
        phase: Only records of this phase.
        say: Is told of each file that has lines which hold no record.

    Yields:
        Records; `seq` is their `number_of`.
    """
    for number, limit in _parts(layout):
        path, passed_over = layout.attempt(number).metrics_file, PassedOver()
        for record in read_metric_records(path, limit, passed_over=passed_over):
            if phase is None or record.get("phase") == phase:
                yield {**record, "seq": number_of(record)}
        if passed_over.lines and say is not None:
            say(
                f"{path.relative_to(layout.root)}: {passed_over.lines} line(s) hold no record and "
                "are passed over: the disk or another program changed them."
            )


def read_newest(layout: SessionLayout) -> dict[str, Iterator[dict[str, Any]]]:
    """The records of `read_metrics` by phase, the newest first.

    Only the ends of long files are read, as far as somebody asks for records.

    Args:
        layout: The session; it may be running.
    """
    ends: dict[str, list[tuple[Path, int]]] = {}
    for number, limit in reversed(_parts(layout)):
        path = layout.attempt(number).metrics_file
        for phase, end in ends_of_phases(path, limit):
            ends.setdefault(phase, []).append((path, end))
    return {phase: _read_backwards(phase, places) for phase, places in ends.items()}


def _read_backwards(phase: str, places: list[tuple[Path, int]]) -> Iterator[dict[str, Any]]:
    for path, end in places:
        yield from takewhile(lambda record: record["phase"] == phase, read_backwards(path, end))


def _parts(layout: SessionLayout) -> list[tuple[int, int | None]]:
    """Attempts whose records the session stands on, and how many lines of each; None: all."""
    for number in reversed(layout.attempt_numbers()):
        adopted = read_adopted(layout.attempt(number))
        if adopted is not None:
            return [*((part.attempt, part.lines) for part in adopted.committed), (number, None)]
    return []
