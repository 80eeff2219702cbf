"""What steps measured, kept on the device until it is read for all of them at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from phaseline.distributed.engines import StepReport
from phaseline.distributed.world import World
from phaseline.objectives.base import Losses, Objective


class StepRow(NamedTuple):
    """One step as it is read: the loss is the mean over the units of all ranks.

    Attributes:
        phase_step: Steps of the phase that are done with it.
        global_step: Steps of the session that are done with it.
        tokens: Tokens of the session that are consumed with it.
        loss: Mean over all units of the global batch, as tokens that are targets.
        source_losses: The same of each source; None of one that had no unit.
        measures: Means of what the objective measures besides.
        lr: Learning rate that the update used.
        grad_norm: 2-norm of the gradient before clipping.
        skipped: Whether the update was left out.
        samples: A digest of its sample ids, on the main rank.
        ended: Unix time at its end, seconds.
    """

    phase_step: int
    global_step: int
    tokens: int
    loss: float
    source_losses: tuple[float | None, ...]
    measures: tuple[float, ...]
    lr: float
    grad_norm: float
    skipped: bool
    samples: str
    ended: float

    def metrics_of(self, objective: Objective, prefix: str) -> dict[str, float]:
        """What the objective reports of the step beside the loss, under `prefix/`."""
        means = {"loss": self.loss, **dict(zip(objective.measures, self.measures, strict=True))}
        return {f"{prefix}/{name}": value for name, value in objective.metrics(means).items()}


def sums_of(
    loss: torch.Tensor, losses: Losses, source_ids: torch.Tensor | None, num_sources: int
) -> torch.Tensor:
    """Returns the summed loss of each source, then each measure's sum, detached.

    Args:
        loss: The sum of all losses of a batch. Scalar.
        losses: What the objective made of it.
        source_ids: Of each of its rows; None if there is one source. [rows]
        num_sources: Sources of the phase.

    Returns:
        [sources + measures]; the loss itself where there is neither a second source nor a measure.
    """
    by_source = loss.detach()
    if source_ids is not None:
        sources = torch.arange(num_sources, device=loss.device)
        is_of_source = source_ids == sources.unsqueeze(1)
        of_rows = losses.values.detach().flatten(1).sum(dim=1)
        by_source = torch.where(is_of_source, of_rows, 0.0).sum(dim=1)
    if losses.measures is None:
        return by_source
    return torch.cat([by_source.view(-1), losses.measures])


_Facts = tuple[int, int, int, list[int], float, StepReport, str, float]


class StepMetrics:
    """Collects rows; the losses are summed over ranks in one collective when they are read.

    Attributes:
        beside: What was given to the last `drain` besides, summed over the ranks.
    """

    def __init__(self, world: World) -> None:
        """Starts empty."""
        self.beside: list[float] = []
        self._world = world
        self._sums: list[torch.Tensor] = []
        self._facts: list[_Facts] = []

    def add(
        self,
        sums: torch.Tensor,
        *,
        num_units: list[int],
        lr: float,
        report: StepReport,
        counters: tuple[int, int, int],
        samples: str = "",
    ) -> None:
        """Keeps one step; nothing is read from the device.

        Args:
            sums: This rank's sums over the step, detached: the loss of each source, then what
                the objective measures. [sources + measures], or a scalar if there is one.
            num_units: Units of the whole global batch, by source.
            lr: Learning rate that the update used.
            report: What the engine did.
            counters: Phase step, global step and tokens after the step.
            samples: A digest of the step's sample ids, where it is recorded.
        """
        self._sums.append(sums)
        self._facts.append((*counters, num_units, lr, report, samples, time.time()))

    @property
    def is_empty(self) -> bool:
        """Whether no step is kept, alike on all ranks."""
        return not self._facts

    def drain(self, beside: Sequence[float] = ()) -> list[StepRow]:
        """Reads and forgets every kept step, oldest first. **Ranks:** all. One collective.

        Args:
            beside: Numbers of this rank's that are summed over the ranks in the same collective.
        """
        if not self._facts:
            return []
        sums, self.beside = self._summed(beside)
        rows = [
            StepRow(
                phase_step=phase_step,
                global_step=global_step,
                tokens=tokens,
                loss=sum(of_step[: len(num_units)]) / sum(num_units),
                source_losses=tuple(
                    loss_sum / count if count else None
                    for loss_sum, count in zip(of_step, num_units, strict=False)
                ),
                measures=tuple(value / sum(num_units) for value in of_step[len(num_units) :]),
                lr=lr,
                grad_norm=report.grad_norm,
                skipped=report.skipped,
                samples=samples,
                ended=ended,
            )
            for of_step, (
                (phase_step, global_step, tokens, num_units, lr, report, samples, ended)
            ) in zip(sums, self._facts, strict=True)
        ]
        self._sums.clear()
        self._facts.clear()
        return rows

    def _summed(self, beside: Sequence[float]) -> tuple[list[list[float]], list[float]]:
        """Every step's sums, and what is beside them, over all ranks: read from the device once."""
        mine = torch.stack(self._sums).view(len(self._sums), -1)
        if self._world.dp_world_size == 1:
            return mine.cpu().tolist(), list(beside)
        mine = mine.double()
        more = torch.tensor(beside, dtype=mine.dtype, device=mine.device)
        numbers = self._world.all_reduce_sum(torch.cat([mine.flatten(), more])).cpu().tolist()
        num_rows, width = mine.shape
        rows = [numbers[row * width : (row + 1) * width] for row in range(num_rows)]
        return rows, numbers[num_rows * width :]
