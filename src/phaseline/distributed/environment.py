"""What the launcher told this process about its place among the ranks. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from phaseline.errors import UsageError

IMAGE_VARIABLE = "PHASELINE_IMAGE"
ATTEMPT_VARIABLE = "PHASELINE_ATTEMPT"
SESSION_VARIABLE = "PHASELINE_SESSION"
TERMINAL_VARIABLE = "PHASELINE_TERMINAL_FD"
OF_AN_IMAGE = frozenset({IMAGE_VARIABLE, ATTEMPT_VARIABLE, SESSION_VARIABLE, TERMINAL_VARIABLE})
"""What an image tells the next one of the same process, and no other process."""


@dataclass(frozen=True)
class RankEnvironment:
    """This process's coordinates, as `accelerate launch` set them.

    Attributes:
        rank: Position among all processes; 0 is the main rank.
        world_size: Number of processes.
        local_rank: Position on this machine.
        master_addr: Host of the rendezvous store; empty when this process is alone.
        master_port: Port of the rendezvous store.
        agent_hosts_store: Whether the launcher, not rank 0, serves the store.
        restart_count: How often the launcher has restarted the ranks.
        image: How many times this process has replaced itself by exec.
        attempt: The attempt that an earlier image of this process took, if any.
        session_dir: The session that an earlier image of this process opened, if any.
        local_world_size: Number of processes on this machine, as far as the launcher says it.
    """

    rank: int
    world_size: int
    local_rank: int
    master_addr: str
    master_port: int
    agent_hosts_store: bool
    restart_count: int
    image: int
    attempt: int | None
    session_dir: str | None = None
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes what there is one of."""
        return self.rank == 0

    @property
    def local_ranks(self) -> range:
        """The ranks on this machine, this one included."""
        first = self.rank - self.local_rank
        return range(first, first + self.local_world_size)

    @classmethod
    def read(cls, variables: Mapping[str, str] = os.environ) -> RankEnvironment:
        """Reads the coordinates; a process that nobody launched is alone.

        Raises:
            UsageError: The variables are no numbers, or contradict each other.
        """
        world_size = _number(variables, "WORLD_SIZE", 1)
        rank = _number(variables, "RANK", 0)
        address = variables.get("MASTER_ADDR", "")
        if not 0 <= rank < world_size:
            raise UsageError(
                f"RANK is {rank} and WORLD_SIZE is {world_size}; the rank must be below the world "
                "size. Start with `phaseline launch` or `accelerate launch`, which set both."
            )
        if world_size > 1 and not address:
            raise UsageError(
                f"WORLD_SIZE is {world_size} but MASTER_ADDR is not set, so the ranks cannot meet. "
                "Start with `phaseline launch` or `accelerate launch`, which set both."
            )
        return cls(
            rank=rank,
            world_size=world_size,
            local_rank=_number(variables, "LOCAL_RANK", 0),
            master_addr=address,
            master_port=_number(variables, "MASTER_PORT", 0),
            agent_hosts_store=variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            restart_count=_number(variables, "TORCHELASTIC_RESTART_COUNT", 0),
            image=_number(variables, IMAGE_VARIABLE, 0),
            attempt=_number(variables, ATTEMPT_VARIABLE, 0) or None,
            session_dir=variables.get(SESSION_VARIABLE) or None,
            local_world_size=_number(variables, "LOCAL_WORLD_SIZE", 1),
        )


def _number(variables: Mapping[str, str], name: str, default: int) -> int:
    """The value of a variable; the default where it is not set, or empty."""
    given = variables.get(name, "").strip()
    if not given:
        return default
    if not (given.isascii() and given.isdecimal()):
        raise UsageError(
            f"{name} is {given!r} in the environment; it must be a whole number. Unset it, or start "
            "with `phaseline launch` or `accelerate launch`, which set it."
        )
    return int(given)
