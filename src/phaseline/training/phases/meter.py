"""What a rank waits for and holds, measured on the host; nothing is read from the device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import psutil
import torch

from phaseline.distributed.world import World

_MEMORY_INTERVAL_S = 1.0
"""The system is asked no more often for the process's memory: the answer costs more than the
rest of a reading, which may come every few milliseconds."""


class Gauges(NamedTuple):
    """What a span of steps cost besides computing, and the memory that it took.

    Over several ranks each is the largest: the others wait for the slowest, and the fullest
    is the one that runs out.

    Attributes:
        data_wait_s: Waiting for batches.
        evaluation_s: Validation and generation.
        save_stall_s: Waiting for saves.
        device_peak_bytes: Most that tensors took on the device at once; 0 on a CPU.
        device_reserved_bytes: What torch holds of the device; 0 on a CPU.
        host_bytes: Resident memory of the process, at most a second old.
    """

    data_wait_s: float
    evaluation_s: float
    save_stall_s: float
    device_peak_bytes: float
    device_reserved_bytes: float
    host_bytes: float


class Meter:
    """Adds up what goes elsewhere than into steps, from one reading to the next.

    Attributes:
        data_wait_s: Waiting for batches since the last reading; whoever fetches adds to it.
    """

    def __init__(self, device: torch.device) -> None:
        """Starts at zero.

        Args:
            device: Whose memory is looked at.
        """
        self.data_wait_s = 0.0
        self._on_cuda = device.type == "cuda"
        self._device = device
        self._process = psutil.Process()
        self._host_bytes = 0.0
        self._host_bytes_due = 0.0
        self._evaluation_s = 0.0
        self._began: float | None = None
        self._stall_s_before = 0.0

    def begin_evaluation(self) -> None:
        """From now on time goes into evaluation, until `end_evaluation`."""
        self.end_evaluation()
        self._began = time.perf_counter()

    def end_evaluation(self) -> None:
        """Time goes into steps again; without an evaluation nothing happens."""
        self._evaluation_s += self.evaluation_so_far_s
        self._began = None

    @property
    def evaluation_so_far_s(self) -> float:
        """Seconds since the evaluation at hand began; 0 if there is none."""
        return 0.0 if self._began is None else time.perf_counter() - self._began

    def read(self, *, stall_s: float) -> Gauges:
        """Returns what was added up on this rank since the last reading, and starts anew.

        Args:
            stall_s: What the loop has waited for saves altogether.
        """
        gauges = Gauges(
            data_wait_s=self.data_wait_s,
            evaluation_s=self._evaluation_s,
            save_stall_s=stall_s - self._stall_s_before,
            device_peak_bytes=self._device_peak(),
            device_reserved_bytes=self._device_reserved(),
            host_bytes=self._resident(),
        )
        self.data_wait_s = self._evaluation_s = 0.0
        self._stall_s_before = stall_s
        return gauges

    def _resident(self) -> float:
        now = time.monotonic()
        if now >= self._host_bytes_due:
            self._host_bytes = float(self._process.memory_info().rss)
            self._host_bytes_due = now + _MEMORY_INTERVAL_S
        return self._host_bytes

    def _device_peak(self) -> float:
        """The allocator counts on the host, so asking it waits for no kernel."""
        if not self._on_cuda:
            return 0.0
        peak = float(torch.cuda.max_memory_allocated(self._device))
        torch.cuda.reset_peak_memory_stats(self._device)
        return peak

    def _device_reserved(self) -> float:
        return float(torch.cuda.memory_reserved(self._device)) if self._on_cuda else 0.0


def spread(gauges: Gauges, world: World) -> list[float]:
    """This rank's gauges in a place of their own, so that a sum over ranks keeps all apart.

    They travel in the collective that sums the losses; one for a maximum would be a second.
    """
    width = len(gauges)
    row = [0.0] * (width * world.dp_world_size)
    row[world.dp_rank * width : (world.dp_rank + 1) * width] = gauges
    return row


def largest(summed: Sequence[float]) -> Gauges:
    """The largest of each gauge, from what `spread` gave once it is summed over the ranks."""
    width = len(Gauges._fields)
    return Gauges(*(max(summed[idx::width]) for idx in range(width)))
