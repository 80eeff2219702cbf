"""When periodic work is due."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Work that is due every so many completed steps.

    Attributes:
        every: Interval in steps; None: never.
    """

    every: int | None

    def due(self, step: int) -> bool:
        """Whether the work is due now that `step` steps are completed."""
        return self.every is not None and step > 0 and step % self.every == 0

    def count(self, after: int, until: int) -> int:
        """How often the work is due after one step, up to and with another."""
        return 0 if self.every is None else until // self.every - after // self.every
