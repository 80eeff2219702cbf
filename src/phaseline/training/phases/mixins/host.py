"""The root of every mixin: it holds the runtime, and nothing else."""

from __future__ import annotations

from phaseline.training.phases.runtime import PhaseRuntime


class PhaseHost:
    """Owns the only constructor; mixins keep all state in the runtime."""

    def __init__(self, *, runtime: PhaseRuntime) -> None:
        """Takes the collaborators of one phase."""
        self.runtime = runtime

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes what there is one of."""
        return self.runtime.world.is_main
