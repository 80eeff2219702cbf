"""The key-value store through which ranks meet, before and beside any process group.

Everything here works without a collective, so it can be used on an error path and while
one rank is busy for long. Waiting is polling with a deadline of our own: a blocking call
on a store does not keep its timeout when the server's host is lost.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from threading import Event
from typing import Any

from torch.distributed import (  # type: ignore[attr-defined]  # public, but not listed in __all__
    DistError,
    HashStore,
    PrefixStore,
    Store,
    TCPStore,
)

from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.peers import Peers
from phaseline.errors import LostRankError, WorldError

_POLL_S = 0.01
_POLL_MAX_S = 0.25
_FAREWELL_S = 10.0
_LAST_WORDS_S = 0.5
_FAILED_KEY = "failed"
_RUNS = itertools.count()
_SERVED: dict[tuple[str, int], Store] = {}
"""Stores that this process serves. They live as long as it does: another rank may have begun
its next session, at the same place, before this one has ended the last."""


def _do_nothing() -> None:
    """Takes the place of something to do while a rank waits."""


class Rendezvous:
    """The store of one process image; keys of different images and runs never meet."""

    def __init__(self, environment: RankEnvironment, *, timeout_s: float) -> None:
        """Connects to the store.

        Args:
            environment: This process's coordinates.
            timeout_s: Longest wait for the store's host, seconds.
        """
        self.environment = environment
        self.timeout_s = timeout_s
        self._uses: Counter[str] = Counter()
        # A program may run one session after another: every rank counts them alike.
        served = self._connect()
        start = f"phaseline/try{environment.restart_count}"
        prefix = f"{start}/image{environment.image}/run{next(_RUNS)}"
        self.store = PrefixStore(prefix, served)
        self._peers = Peers(environment, PrefixStore(start, served))

    def _connect(self) -> Store:
        environment = self.environment
        if environment.world_size == 1:
            return HashStore()
        place = (environment.master_addr, environment.master_port)
        serves = environment.is_main and not environment.agent_hosts_store
        if serves and place in _SERVED:
            return _SERVED[place]
        try:
            store = TCPStore(
                *place,
                environment.world_size,
                is_master=serves,
                timeout=timedelta(seconds=self.timeout_s),
                multi_tenant=True,
                wait_for_workers=False,
            )
        except (RuntimeError, DistError) as error:
            raise WorldError(
                f"Rank {environment.rank} could not reach the store at {environment.master_addr}:"
                f"{environment.master_port} within {self.timeout_s:g} s: {error}. "
                "Check that the launcher is alive and that the port is free and open."
            ) from error
        if serves:
            _SERVED[place] = store
        return store

    def publish(self, key: str, value: Any) -> None:
        """Sets a key to a JSON value. **Ranks:** any."""
        self.store.set(key, json.dumps(value))

    def tell_failure(self, who: str) -> None:
        """Lets every rank that waits here, now or later, end instead of waiting on."""
        self.publish(_FAILED_KEY, who)

    def wait_for(
        self,
        key: str,
        *,
        unless: str | None = None,
        timeout_s: float | None = None,
        given_up: Event | None = None,
    ) -> Any:
        """Returns the JSON value of a key once somebody has published it.

        Args:
            key: The key.
            unless: Another key, whose value is returned instead if it is there first.
            timeout_s: Longest wait in seconds; None waits for as long as it takes.
            given_up: Ends the wait when it is set.

        Raises:
            LostRankError: It was not published in time, another rank failed or is gone, or this
                one gave up.
        """
        keys = [key] if unless is None else [unless, key]

        def published() -> str | None:
            return next((name for name in keys if self.store.check([name])), None)

        self._poll(published, f"the value {key!r}", timeout_s, given_up)
        name = published()
        assert name is not None
        return json.loads(self.store.get(name))

    def is_published(self, key: str) -> bool:
        """Whether somebody has set the key. Does not wait. **Ranks:** any."""
        return bool(self.store.check([key]))

    def unique(self, name: str) -> str:
        """A key that the n-th call for this name gives to every rank alike, and no other call.

        Without it a value of an earlier use would be taken for an answer to this one.
        **Ranks:** all, as often as each other.
        """
        self._uses[name] += 1
        return f"{name}#{self._uses[name]}"

    def barrier(
        self,
        name: str,
        *,
        timeout_s: float | None = None,
        meanwhile: Callable[[], object] = _do_nothing,
    ) -> None:
        """Returns once every rank has called it as often with this name. **Ranks:** all.

        It is no collective, so it may stand where one would hang.

        Args:
            name: Of the barrier.
            timeout_s: Longest wait in seconds; None: the one for the start.
            meanwhile: Called a few times a second while this rank waits.

        Raises:
            LostRankError: Some rank did not come in time, failed, or is gone.
        """
        world_size = self.environment.world_size
        limit = self.timeout_s if timeout_s is None else timeout_s
        key = self.unique(f"barrier/{name}")
        self.store.add(key, 1)

        def is_complete() -> bool:
            meanwhile()
            return bool(self.store.add(key, 0) >= world_size)

        self._poll(is_complete, f"all ranks at {name!r}", limit)

    def leave(self) -> None:
        """Says that this rank asks the store nothing more. **Ranks:** all, after a barrier.

        The rank that serves the store waits until all have said so: a rank that still polled
        the barrier would find the store gone and take that for a failure.
        """
        world_size = self.environment.world_size
        key = self.unique("left")
        self.store.add(key, 1)
        if not self.environment.is_main:
            return
        with suppress(LostRankError):  # it passed the barrier, so it has no work of ours left
            self._poll(
                lambda: self.store.add(key, 0) >= world_size, "all ranks to leave", _FAREWELL_S
            )

    def _poll(
        self,
        is_ready: Callable[[], object],
        what: str,
        timeout_s: float | None,
        given_up: Event | None = None,
    ) -> None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        pause = _POLL_S
        while not is_ready():
            if self.store.check([_FAILED_KEY]):
                raise LostRankError(
                    f"Rank {self.environment.rank} waited for {what}, but "
                    f"{json.loads(self.store.get(_FAILED_KEY))} failed."
                )
            lost = self._peers.find_lost()
            if lost:
                # It may have done its part and ended, and the store may not have served it yet.
                time.sleep(_LAST_WORDS_S)
                if is_ready():
                    return
                raise LostRankError(f"Rank {self.environment.rank} waited for {what}, but {lost}.")
            if given_up is not None and given_up.is_set():
                raise LostRankError(
                    f"Rank {self.environment.rank} no longer waits for {what}: it failed itself."
                )
            if deadline is not None and time.monotonic() > deadline:
                raise LostRankError(
                    f"Rank {self.environment.rank} waited {timeout_s:g} s for {what}. "
                    "Another rank is lost or stuck; its log is in the attempt's folder."
                )
            time.sleep(pause)
            pause = min(pause * 1.5, _POLL_MAX_S)
