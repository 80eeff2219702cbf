"""How a global batch is spread over ranks and accumulation steps."""

from __future__ import annotations

from dataclasses import dataclass

from phaseline.config.bounds import MAX_SEQUENCES
from phaseline.errors import ConfigurationError, Fault

MAX_WASTED_FRAC = 0.10


@dataclass(frozen=True)
class BatchLayout:
    """One optimizer step, cut into micro-batches.

    The global batch never changes with the world size. Where it does not divide, rows of
    zero weight fill the last micro-batches.

    Attributes:
        global_size: Sequences per optimizer step over all ranks.
        micro_size: Sequences per forward pass and rank.
        dp_world_size: Data-parallel ranks.
        accumulation_steps: Forward passes per rank and optimizer step.
        padding_rows: Rows of zero weight per optimizer step over all ranks.
    """

    global_size: int
    micro_size: int
    dp_world_size: int
    accumulation_steps: int
    padding_rows: int

    @property
    def wasted_frac(self) -> float:
        """Share of the computed rows that have zero weight."""
        return self.padding_rows / (self.global_size + self.padding_rows)

    @classmethod
    def derive(
        cls, global_size: int, micro_size: int, dp_world_size: int, *, path: str = "batch"
    ) -> BatchLayout:
        """Derives accumulation and padding.

        Args:
            global_size: Sequences per optimizer step over all ranks.
            micro_size: Sequences per forward pass and rank.
            dp_world_size: Data-parallel ranks.
            path: The batch's place in the configuration, for the message.

        Raises:
            ConfigurationError: More than a tenth of the rows would be padding.
        """
        assert global_size > 0
        assert micro_size > 0
        assert dp_world_size > 0
        pass_size = micro_size * dp_world_size
        accumulation_steps = -(-global_size // pass_size)
        padding_rows = accumulation_steps * pass_size - global_size
        layout = cls(global_size, micro_size, dp_world_size, accumulation_steps, padding_rows)
        if layout.wasted_frac > MAX_WASTED_FRAC:
            raise ConfigurationError([Fault(path, "", layout._problem(), layout._fix())])
        return layout

    def _problem(self) -> str:
        ranks = f"{self.dp_world_size} rank{'s' if self.dp_world_size > 1 else ''}"
        return (
            f"spreads {self.global_size} sequences over {ranks} in micro-batches of "
            f"{self.micro_size}: {self.padding_rows} of {self.global_size + self.padding_rows} "
            f"computed rows would be padding ({self.wasted_frac:.0%}); at most "
            f"{MAX_WASTED_FRAC:.0%} may be"
        )

    def _fix(self) -> str:
        micro_size = self._nearest_micro_size()
        sizes = [self.global_size + self.padding_rows]
        below = sizes[0] - self.micro_size * self.dp_world_size
        if below > 0:
            sizes.insert(0, below)
        sizes = [size for size in sizes if size <= MAX_SEQUENCES]
        ways = [f"global_size to {' or '.join(map(str, sizes))}"] if sizes else []
        if micro_size is not None:
            ways.insert(0, f"micro_size to {micro_size}")
        return f"Set {', or '.join(ways)}." if ways else "Use fewer ranks."

    def _nearest_micro_size(self) -> int | None:
        """The largest micro-batch below this one that wastes little enough."""
        most_rows = int(self.global_size / (1 - MAX_WASTED_FRAC)) + 1
        micro_size = self.micro_size - 1
        while micro_size > 0:
            pass_rows = micro_size * self.dp_world_size
            num_passes = -(-self.global_size // pass_rows)
            padding = num_passes * pass_rows - self.global_size
            if padding <= MAX_WASTED_FRAC * (self.global_size + padding):
                return micro_size
            # Anything between needs as many passes and wastes too much: a million may lie there.
            micro_size = min(micro_size - 1, most_rows // (num_passes * self.dp_world_size))
        return None
