"""Stopping on request: the ranks agree at a step edge."""

from __future__ import annotations

import math
import time

import torch
import torch.distributed as dist

from phaseline.distributed.world import World
from phaseline.resilience.stop_flag import StopFlag

_LARGEST_SHARE = 0.005
_LONGEST_PAUSE_S = 2.0


class StopVote:
    """Lets all ranks learn at the same step edge that one of them was asked to stop.

    The vote starts at one edge and is read at the next, so that nobody waits for it. It is
    held only every so many steps as keeps its cost under half a percent, but at least every
    two seconds; each rank proposes that number and all take the largest.
    """

    def __init__(self, flag: StopFlag, world: World) -> None:
        """Prepares the vote. **Ranks:** all; the side group's first use is collective.

        Args:
            flag: This rank's flag.
            world: The started world.
        """
        self._flag = flag
        self._alone = world.dp_world_size == 1
        self._group = None if self._alone else world.side_group
        self._ballot = torch.zeros(2, dtype=torch.int64)
        self._work: dist.Work | None = None
        self._interval = 1
        self._edges_left = 1
        self._cost_s = 0.0
        self._edge_s = 0.0
        self._last_edge = time.monotonic()

    def agreed(self) -> bool:
        """Called at every step edge, on all ranks alike: whether all stop here."""
        if self._alone:
            return self._flag.is_set
        now = time.monotonic()
        self._edge_s = 0.9 * self._edge_s + 0.1 * (now - self._last_edge)
        self._last_edge = now
        if self._work is not None:
            return self._read()
        self._edges_left -= 1
        if self._edges_left <= 0:
            self._start()
            self._cost_s = time.monotonic() - now
        return False

    def close(self) -> None:
        """Takes part in the last vote that was started, so that no rank is left waiting."""
        if self._work is not None:
            self._work.wait()
            self._work = None

    def _start(self) -> None:
        self._ballot[0] = int(self._flag.is_set)
        self._ballot[1] = self._proposal()
        self._work = dist.all_reduce(
            self._ballot, op=dist.ReduceOp.MAX, group=self._group, async_op=True
        )

    def _read(self) -> bool:
        began = time.monotonic()
        assert self._work is not None
        self._work.wait()
        self._work = None
        self._cost_s += time.monotonic() - began
        self._interval = max(1, int(self._ballot[1]))
        self._edges_left = self._interval
        return bool(self._ballot[0])

    def _proposal(self) -> int:
        if self._edge_s <= 0:
            return 1
        cheap_enough = math.ceil(self._cost_s / _LARGEST_SHARE / self._edge_s)
        often_enough = math.floor(_LONGEST_PAUSE_S / self._edge_s)
        return max(1, min(cheap_enough, often_enough))
