"""The ranks of one process image: who they are, and the few ways in which they talk."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # not in __all__

from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.errors import WorldError


class World:
    """A started process group and the store beside it.

    Every rank is data-parallel, so `dp_rank` and `dp_world_size` equal the rank and the
    world size. Data, loss and seeds use only these two names, so that other kinds of
    parallelism can come later without touching them.
    """

    def __init__(
        self, environment: RankEnvironment, rendezvous: Rendezvous, *, collective_timeout_s: float
    ) -> None:
        """Starts the process group; every rank reaches this.

        Args:
            environment: This process's coordinates.
            rendezvous: The store that the ranks meet at.
            collective_timeout_s: Longest collective, seconds.

        Raises:
            WorldError: The ranks did not all come.
        """
        self.environment = environment
        self.rendezvous = rendezvous
        self.dp_rank = environment.rank
        self.dp_world_size = environment.world_size
        self.device = _device_of(environment)
        self._timeout = timedelta(seconds=collective_timeout_s)
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        # All ranks first meet at the store: a rank that never came is then named by a
        # deadline of ours, not by whatever the backend does while it waits.
        rendezvous.barrier("world")
        try:
            dist.init_process_group(
                backend,
                store=PrefixStore("group", rendezvous.store),
                rank=environment.rank,
                world_size=environment.world_size,
                timeout=self._timeout,
            )
        except RuntimeError as error:
            raise WorldError(
                f"Rank {environment.rank} could not start its process group: {error}. "
                "If the machines' names resolve to 127.0.1.1, set GLOO_SOCKET_IFNAME."
            ) from error
        self._side_group: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes what there is one of."""
        return self.dp_rank == 0

    @property
    def side_group(self) -> dist.ProcessGroup:
        """A gloo group for agreements that run beside training. First use is collective."""
        if self._side_group is None:
            # Without a timeout of its own a new group gets torch's default, 30 minutes.
            self._side_group = dist.new_group(backend="gloo", timeout=self._timeout)
        return self._side_group

    def all_reduce_sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sums a tensor over the ranks, in place. **Ranks:** all. One collective.

        Args:
            values: Any shape and dtype, on the world's device.
        """
        if self.dp_world_size > 1:
            dist.all_reduce(values)
        return values

    def broadcast_from_main(self, values: torch.Tensor) -> torch.Tensor:
        """Gives every rank the main rank's values, in place. **Ranks:** all. One collective.

        Args:
            values: Any shape and dtype, alike on all ranks, on the world's device.
        """
        if self.dp_world_size > 1:
            dist.broadcast(values, 0)
        return values

    def gather_objects(self, value: Any) -> list[Any]:
        """Returns every rank's JSON value, by rank. **Ranks:** all. Collectives on the CPU."""
        if self.dp_world_size == 1:
            return [json.loads(json.dumps(value))]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.dp_world_size)]
        dist.all_gather(sizes, torch.tensor([data.numel()]), group=self.side_group)
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: data.numel()] = data
        parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.dp_world_size)]
        dist.all_gather(parts, padded, group=self.side_group)
        return [
            json.loads(part[: int(size)].numpy().tobytes())
            for part, size in zip(parts, sizes, strict=True)
        ]

    def require_agreement(self, what: str, value: Any) -> None:
        """Raises on every rank alike unless all ranks hold the same JSON value.

        **Ranks:** all.

        Raises:
            WorldError: Naming the value of each rank.
        """
        values = self.gather_objects(value)
        if any(other != values[0] for other in values):
            listed = "; ".join(f"rank {rank}: {other}" for rank, other in enumerate(values))
            raise WorldError(f"The ranks disagree on {what}: {listed}. Start them all alike.")

    def close(self) -> None:
        """Waits for every rank, then ends the process group. **Ranks:** all."""
        # No deadline: the main rank may have an export to write. One that fails says so.
        self.rendezvous.barrier("close", timeout_s=float("inf"))
        self.rendezvous.leave()
        self.abandon()

    def abandon(self) -> None:
        """Ends this rank's side of the process group; after a failure nobody is waited for."""
        self._side_group = None
        dist.destroy_process_group()


def _device_of(environment: RankEnvironment) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if environment.local_rank >= count:
        raise WorldError(
            f"Rank {environment.rank} is number {environment.local_rank} on its machine, which has "
            f"{count} GPU(s). Start at most {count} processes per machine (--processes {count})."
        )
    device = torch.device("cuda", environment.local_rank)
    torch.cuda.set_device(device)
    return device
