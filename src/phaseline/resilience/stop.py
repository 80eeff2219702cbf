"""Stopping on request, and saving by the clock: the ranks agree at an edge that all reach."""

from __future__ import annotations

import math
import signal
import time

import torch
import torch.distributed as dist

from phaseline.distributed.world import World
from phaseline.resilience.save_timer import SaveTimer
from phaseline.resilience.stop_flag import StopFlag
from phaseline.resilience.stop_notice import StopNotice

_LARGEST_SHARE = 0.005
_LONGEST_PAUSE_S = 2.0


class StopVote:
    """Lets all ranks learn at the same edge that one of them was asked to stop.

    An edge lies between two steps, two held-out batches or two samples. The vote starts at one
    edge and is read at the next, so that nobody waits for it. It is held only every so many
    edges as keeps its cost under half a percent, but at least every two seconds; each rank
    proposes that number and all take the largest. Once agreed, it stays agreed. The same vote
    tells all ranks that a save is due by the main rank's clock.
    """

    def __init__(self, flag: StopFlag, world: World, timer: SaveTimer | None = None) -> None:
        """Prepares the vote. **Ranks:** all; the side group's first use is collective.

        Args:
            flag: This rank's flag.
            world: The started world.
            timer: When a save is due; the main rank's counts. None: time asks for none.
        """
        self._flag = flag
        self._world = world
        self._timer = timer or SaveTimer(None)
        self._is_save_due = False
        self._notice = StopNotice(flag, world.rendezvous)
        self._alone = world.dp_world_size == 1
        self._group = None if self._alone else world.side_group
        self._ballot = torch.zeros(3, dtype=torch.int64)
        self._work: dist.Work | None = None
        self._is_agreed = False
        self._begin()

    def agreed(self) -> bool:
        """Called at every edge, on all ranks alike: whether all stop here."""
        if self._alone:
            return self._flag.is_set
        if self._is_agreed:
            return True
        now = time.monotonic()
        self._measure(now)
        if self._work is not None:
            self._read()
            return self._is_agreed
        self._edges_left -= 1
        if self._edges_left <= 0:
            self._start()
            self._cost_s = time.monotonic() - now
        return False

    def save_is_due(self) -> bool:
        """Whether all ranks save at this edge, since the time for it has come.

        **Ranks:** all, after `agreed` at the same edge.
        """
        return self._timer.is_due() if self._alone else self._is_save_due

    def note_saved(self) -> None:
        """Tells that a save begins at this edge, for whatever reason. **Ranks:** all."""
        self._timer.note_saved()
        self._is_save_due = False

    def begin(self) -> None:
        """Tells of a loop whose edges come at another pace; a vote is due at its first.

        **Ranks:** all. May wait for the last vote that was started.
        """
        self.close()
        self._begin()

    def agreed_now(self) -> bool:
        """Asks all ranks and waits for the answer: for edges that are seconds apart.

        **Ranks:** all. A collective on the CPU.
        """
        self.close()
        # Every rank asks, whatever it knows: the answer of one that does not would be missed.
        if any(self._world.gather_objects(self._flag.is_set)):
            self._is_agreed = True
        return self._is_agreed

    def heard(self) -> bool:
        """Whether some rank was asked, as far as this one knows. **Ranks:** any.

        Nothing is agreed by it: the others may hear of it later. See `StopNotice`.
        """
        return self._is_agreed or self._notice.heard()

    @property
    def is_by_hand(self) -> bool:
        """Whether a Ctrl-C asked this rank."""
        return self._flag.number == signal.SIGINT

    def close(self) -> None:
        """Takes part in the last vote that was started, so that no rank is left waiting."""
        if self._work is not None:
            self._read()

    def _begin(self) -> None:
        self._edges_left = 1
        self._cost_s = 0.0
        self._edge_s = 0.0
        self._last_edge: float | None = None

    def _measure(self, now: float) -> None:
        """A mean that forgets. It starts with a whole edge, else it would be far too low."""
        if self._last_edge is not None:
            edge_s = now - self._last_edge
            self._edge_s = 0.9 * self._edge_s + 0.1 * edge_s if self._edge_s > 0 else edge_s
        self._last_edge = now

    def _start(self) -> None:
        self._ballot[0] = int(self._flag.is_set)
        self._ballot[1] = self._proposal()
        self._ballot[2] = int(self._world.is_main and self._timer.is_due())
        self._work = dist.all_reduce(
            self._ballot, op=dist.ReduceOp.MAX, group=self._group, async_op=True
        )

    def _read(self) -> None:
        began = time.monotonic()
        assert self._work is not None
        self._work.wait()
        self._work = None
        self._cost_s += time.monotonic() - began
        self._is_agreed = bool(self._ballot[0])
        self._is_save_due = bool(self._ballot[2])
        # It is read one edge after it was started, which is the first of the interval.
        self._edges_left = max(1, int(self._ballot[1]) - 1)

    def _proposal(self) -> int:
        if self._edge_s <= 0:
            return 1
        cheap_enough = math.ceil(self._cost_s / _LARGEST_SHARE / self._edge_s)
        often_enough = math.floor(_LONGEST_PAUSE_S / self._edge_s)
        return max(1, min(cheap_enough, often_enough))
