"""What made-up checkpoints say of the metrics that they stand on."""

from __future__ import annotations

from phaseline.session.committed import CommittedLines
from phaseline.session.layout import SessionLayout
from phaseline.session.records import first_lines


def covered(*parts: tuple[int, int]) -> tuple[CommittedLines, ...]:
    """(attempt, lines) pairs of metrics that nobody compares with a file."""
    return tuple(CommittedLines(attempt, lines, "") for attempt, lines in parts)


def covered_of(layout: SessionLayout, *parts: tuple[int, int]) -> tuple[CommittedLines, ...]:
    """The same with the hashes of what the files hold now."""
    return tuple(
        CommittedLines(
            attempt, lines, first_lines(layout.attempt(attempt).metrics_file, lines).hash
        )
        for attempt, lines in parts
    )
