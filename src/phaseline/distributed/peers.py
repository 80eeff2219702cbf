"""Whether the other ranks of this machine still run, told without asking them.

A rank that is killed says nothing. Before there is a process group, whose connections break
then, its peers would wait for it until the launcher's patience ends.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from torch.distributed import Store  # type: ignore[attr-defined]  # not listed in __all__

from phaseline.distributed.environment import RankEnvironment
from phaseline.session import linux
from phaseline.session.lease import LeaseOwner

_LOOK_EVERY_S = 0.5
_MISSED_FOR_S = 5.0
"""The launcher starts the ranks of a machine one after the other; none takes as long."""


class Peers:
    """The ranks of this machine, by their process ids; those of other machines are not seen."""

    def __init__(self, environment: RankEnvironment, store: Store) -> None:
        """Tells the others which process this rank is.

        Args:
            environment: This process's coordinates.
            store: Of all images of these processes, and of nobody else.
        """
        self._environment = environment
        self._store = store
        self._me = LeaseOwner.of_this_process()
        self._known: dict[int, LeaseOwner] = {}
        self._next_look_s = 0.0
        self._missed_since_s: float | None = None
        store.set(_key(environment.rank), json.dumps(asdict(self._me)))

    def find_lost(self) -> str:
        """Names a rank that is gone; empty if none is known to be.

        It looks twice a second at most, so it may be called as often as one likes. A rank that
        has ended on purpose is gone as well.
        """
        now = time.monotonic()
        if now < self._next_look_s:
            return ""
        self._next_look_s = now + _LOOK_EVERY_S
        local = self._environment.local_ranks
        for rank in local:
            owner = self._process_of(rank)
            if owner is not None and owner.is_certainly_dead(self._me):
                return f"rank {rank} (process {owner.pid} on {owner.host}) is gone"
        if len(self._known) == len(local):
            return ""
        return self._find_missing(now)

    def _process_of(self, rank: int) -> LeaseOwner | None:
        if rank not in self._known and self._store.check([_key(rank)]):
            self._known[rank] = LeaseOwner(**json.loads(self._store.get(_key(rank))))
        return self._known.get(rank)

    def _find_missing(self, now: float) -> str:
        """Some rank has not told its process yet; it may have been killed before it could."""
        num_live = linux.count_launched_siblings()
        wanted = len(self._environment.local_ranks)
        if num_live is None or num_live >= wanted:
            self._missed_since_s = None
            return ""
        if self._missed_since_s is None:
            self._missed_since_s = now
        if now - self._missed_since_s < _MISSED_FOR_S:
            return ""
        return f"only {num_live} of the {wanted} ranks that were started on {self._me.host} run"


def _key(rank: int) -> str:
    return f"process/{rank}"
