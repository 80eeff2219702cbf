"""The steps that a start trains again, because nothing was saved after them."""

from __future__ import annotations

from dataclasses import dataclass

from phaseline.session.attempts import Adopted
from phaseline.session.layout import SessionLayout
from phaseline.session.records import count_lines, read_metric_records
from phaseline.tracking.formatting import format_seconds


@dataclass(frozen=True, kw_only=True)
class RepeatedSteps:
    """Steps of an earlier attempt that no checkpoint covers.

    Attributes:
        attempt: The attempt that trained them.
        steps: How many.
        seconds: From the first of them to the last one's end, by their records.
        is_all: Whether the session has no checkpoint at all.
    """

    attempt: int
    steps: int
    seconds: float
    is_all: bool

    def __str__(self) -> str:
        took = f"{self.steps:,} step(s), {format_seconds(self.seconds)} of work,"
        if self.is_all:
            return f"nothing was saved: {took} of attempt {self.attempt} are trained again"
        return f"{took} that attempt {self.attempt} did after its last checkpoint are trained again"


def find_repeated_steps(
    layout: SessionLayout, before: int, adopted: Adopted
) -> RepeatedSteps | None:
    """What the last attempt that trained recorded beyond what is gone on from; None: nothing.

    Args:
        layout: The session.
        before: The attempt that begins now.
        adopted: What it goes on from.
    """
    for number in reversed([number for number in layout.attempt_numbers() if number < before]):
        path = layout.attempt(number).metrics_file
        num_lines = count_lines(path)
        if num_lines == 0:
            continue
        covered = sum(part.lines for part in adopted.committed if part.attempt == number)
        steps, began, ended = 0, None, 0.0
        # The record before tells when the first of them began. There may be millions.
        for record in read_metric_records(path, skip=max(0, covered - 1)):
            ended = record["timing"]["time"]
            is_before = began is None and covered > 0
            steps += record["kind"] == "train" and not is_before
            began = ended if began is None else began
        if steps == 0 or began is None:
            return None
        return RepeatedSteps(
            attempt=number,
            steps=steps,
            seconds=max(0.0, ended - began),
            is_all=adopted.resumed_from is None,
        )
    return None
