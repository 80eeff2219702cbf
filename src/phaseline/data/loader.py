"""Micro-batches in the order in which a phase consumes them, read here or by workers ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from phaseline.data.batch import AnyBatch, build_batch
from phaseline.data.loader_workers import LoaderWorkers
from phaseline.distributed.seeding import position_seed

if TYPE_CHECKING:
    from phaseline.config.data_section import DataSection
    from phaseline.data.batch_arrays import BatchArrays, LabelledArrays
    from phaseline.data.phase_data import PhaseData


class Loader(Protocol):
    """One rank's micro-batches.

    It keeps no position: what is consumed is counted by who asks, so that nothing that was read
    ahead is ever lost or skipped.
    """

    def micro_batch(self, step: int, micro_step: int) -> AnyBatch:
        """This rank's micro-batch of a step of the phase, counted from 0."""
        ...

    def close(self) -> None:
        """Ends what works for it. Workers outlive a change of the process image otherwise."""
        ...


class DirectLoader:
    """Reads every micro-batch when it is asked for."""

    def __init__(self, data: PhaseData, dp_rank: int) -> None:
        """Takes the phase's data and the data rank that is read for."""
        self._data = data
        self._dp_rank = dp_rank

    def micro_batch(self, step: int, micro_step: int) -> AnyBatch:
        """This rank's micro-batch of a step of the phase, counted from 0."""
        return self._data.micro_batch(step, micro_step, self._dp_rank)

    def close(self) -> None:
        """Nothing works for it."""


class WorkerLoader:
    """Has micro-batches read ahead by processes, which begin with the first that is asked for."""

    def __init__(self, data: PhaseData, workers: LoaderWorkers) -> None:
        """Takes the phase's data and who reads them."""
        self._num_micro_steps = data.layout.accumulation_steps
        self._workers = workers

    def micro_batch(self, step: int, micro_step: int) -> AnyBatch:
        """This rank's micro-batch of a step of the phase, counted from 0.

        Raises:
            DataError: A worker failed or was killed.
        """
        return build_batch(self._workers.take(step * self._num_micro_steps + micro_step))

    def close(self) -> None:
        """Kills the workers: they hold nothing that is not computed again from its position."""
        self._workers.close()


def build_loader(
    section: DataSection, data: PhaseData, *, seed: int, phase_idx: int, dp_rank: int
) -> Loader:
    """Builds what the section asks for. No process is started yet.

    Args:
        section: The phase's data section.
        data: Its opened data.
        seed: The session's.
        phase_idx: Which phase.
        dp_rank: The data rank that is read for.
    """
    if section.num_workers == 0:
        return DirectLoader(data, dp_rank)

    def read(idx: int) -> BatchArrays | LabelledArrays:
        step, micro_step = divmod(idx, data.layout.accumulation_steps)
        return data.arrays(step, micro_step, dp_rank)

    workers = LoaderWorkers(
        read,
        # What a worker draws, it shares with no other of any rank, and not with the training.
        seeds=[
            position_seed(seed, phase_idx, dp_rank, worker_idx, _WORKERS_OWN)
            for worker_idx in range(section.num_workers)
        ],
        prefetch=section.prefetch,
        most_bytes=data.most_bytes,
    )
    return WorkerLoader(data, workers)


_WORKERS_OWN = 0x6C6F6164
"""Sets the seeds of workers apart from those of micro-steps, whose positions are as long."""
