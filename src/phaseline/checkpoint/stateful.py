"""State that is restored rather than recomputed, registered by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from phaseline.errors import CheckpointError


class Stateful(Protocol):
    """Something whose state goes into checkpoints as JSON, alike on all ranks."""

    def state_dict(self) -> dict[str, Any]:
        """Returns what is needed to go on, as JSON values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""


class StatefulRegistry:
    """The named pieces of state that a phase's checkpoints carry."""

    def __init__(self) -> None:
        """Starts empty."""
        self._members: dict[str, Stateful] = {}

    def register(self, name: str, member: Stateful) -> None:
        """Adds a piece of state under a name that checkpoints will know it by.

        Raises:
            ValueError: The name is taken.
        """
        if name in self._members:
            raise ValueError(
                f"State {name!r} is registered twice; give the second one a name of its own."
            )
        self._members[name] = member

    def state_dict(self) -> dict[str, Any]:
        """Returns every member's state, by name."""
        return {name: member.state_dict() for name, member in self._members.items()}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Gives every member its state back.

        Raises:
            CheckpointError: A member is missing from the checkpoint, or the checkpoint holds
                a state that nobody registered: either would go on with a part forgotten.
        """
        missing = sorted(self._members.keys() - states.keys())
        unknown = sorted(states.keys() - self._members.keys())
        if missing or unknown:
            parts = [f"does not hold {', '.join(missing)}"] if missing else []
            parts += [f"holds {', '.join(unknown)}, which nothing registered"] if unknown else []
            raise CheckpointError(
                f"The checkpoint {' and '.join(parts)}. Resume with the callbacks and plug-ins "
                "that it was written with, or start the phase in a new session."
            )
        for name, member in self._members.items():
            member.load_state_dict(states[name])
