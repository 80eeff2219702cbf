"""The session's metrics as one stream: every step once, whatever was interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from phaseline.session.attempts import read_adopted
from phaseline.session.layout import SessionLayout
from phaseline.session.records import read_records


def read_metrics(layout: SessionLayout, phase: str | None = None) -> Iterator[dict[str, Any]]:
    """Yields the metric records that the session stands on, in order.

    The newest attempt that knows what it stands on decides: of each earlier attempt the
    records that its checkpoint covers, then all of its own. What an earlier attempt
    appends later, or recorded after the checkpoint, was replayed or will be.

    Args:
        layout: The session; it may be running.
        phase: Only records of this phase.

    Yields:
        Records; `seq` is the position among all records of the view, from 0.
    """
    for number in reversed(layout.attempt_numbers()):
        adopted = read_adopted(layout.attempt(number))
        if adopted is not None:
            parts = [*adopted.committed, (number, None)]
            break
    else:
        return
    records = chain.from_iterable(
        read_records(layout.attempt(number).metrics_file, limit) for number, limit in parts
    )
    for seq, record in enumerate(records):
        if phase is None or record.get("phase") == phase:
            yield {**record, "seq": seq}
