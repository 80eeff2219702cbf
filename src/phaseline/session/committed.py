"""The metric lines that a checkpoint stands on, and whether they are still what they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from phaseline.session.layout import SessionLayout
from phaseline.session.records import first_lines
from phaseline.session.stored import Count


@dataclass(frozen=True)
class CommittedLines:
    """The first lines of an attempt's metrics.

    Attributes:
        attempt: The attempt that wrote them.
        lines: How many.
        hash: xxh3-128 of their bytes, each line with its end; hexadecimal.
    """

    attempt: Count
    lines: Count
    hash: str


def find_lost_lines(layout: SessionLayout, committed: Iterable[CommittedLines]) -> Iterator[str]:
    """Says of each attempt whose committed metrics are not what was written what is wrong.

    Args:
        layout: The session.
        committed: What a checkpoint stands on.

    Yields:
        Sentences for people.
    """
    for part in committed:
        path = layout.attempt(part.attempt).metrics_file
        name = path.relative_to(layout.root)
        try:
            found = first_lines(path, part.lines)
        except OSError as error:
            yield f"{name}, with {part.lines} committed line(s) of metrics, cannot be read: {error}."
            continue
        missing = part.lines - found.lines
        if missing:
            yield (
                f"{name} has lost {missing} of the {part.lines} line(s) of metrics that the "
                "checkpoint stands on. Put the file back from a copy; weights are not affected."
            )
        elif found.hash != part.hash:
            yield (
                f"{name} was changed after it was written, within the {part.lines} line(s) of "
                "metrics that the checkpoint stands on. Put the file back from a copy; weights are "
                "not affected."
            )
