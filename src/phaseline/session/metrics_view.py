"""The session's metrics as one stream: every step once, whatever was interrupted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final

from phaseline.session.attempts import read_adopted
from phaseline.session.layout import SessionLayout
from phaseline.session.record_checks import METRIC_KINDS
from phaseline.session.records import read_metric_records

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


def read_metrics(layout: SessionLayout, phase: str | None = None) -> Iterator[dict[str, Any]]:
    """Yields the metric records that the session stands on, in order.

    The newest attempt that knows what it stands on decides: of each earlier attempt the
    records that its checkpoint covers, then all of its own. What an earlier attempt
    appends later, or recorded after the checkpoint, was replayed or will be.

    Args:
        layout: The session; it may be running.
        phase: Only records of this phase.

    Yields:
        Records; `seq` is their `number_of`.
    """
    for number in reversed(layout.attempt_numbers()):
        adopted = read_adopted(layout.attempt(number))
        if adopted is not None:
            parts = [*((part.attempt, part.lines) for part in adopted.committed), (number, None)]
            break
    else:
        return
    records = chain.from_iterable(
        read_metric_records(layout.attempt(number).metrics_file, limit) for number, limit in parts
    )
    for record in records:
        if phase is None or record.get("phase") == phase:
            yield {**record, "seq": number_of(record)}
