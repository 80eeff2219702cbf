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

    def due_early(self, step: int, *, since: int) -> bool:
        """Whether it is due, or 1, 2, 4, ... steps after a start: slow steps are seen soon.

        Args:
            step: Completed steps.
            since: Completed steps at the start.
        """
        done = step - since
        is_early = self.every is not None and 0 < done < self.every and done & (done - 1) == 0
        return is_early or self.due(step)

    def count(self, after: int, until: int) -> int:
        """How often the work is due after one step, up to and with another."""
        return 0 if self.every is None else until // self.every - after // self.every
