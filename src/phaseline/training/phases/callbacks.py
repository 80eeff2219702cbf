"""Code of others that a phase calls, at named moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phaseline.checkpoint.store import SavedReport
    from phaseline.training.phases.runtime import PhaseRuntime


class Callback:
    """What a phase calls on every rank. Override what is needed.

    A callback that also has `state_dict` and `load_state_dict` is saved with checkpoints
    under its name in the configuration, and must be there again when they are resumed.
    """

    def phase_started(self, runtime: PhaseRuntime) -> None:
        """Before the first step of this process image."""

    def step_began(self, runtime: PhaseRuntime) -> None:
        """Before every optimizer step, and before its batches are fetched."""

    def step_ended(self, runtime: PhaseRuntime) -> None:
        """After every optimizer step; nothing may be read from the device here."""

    def validation_ended(self, runtime: PhaseRuntime, metrics: Mapping[str, float]) -> None:
        """After held-out data was looked at; the metrics are those of all ranks."""

    def checkpoint_saved(self, runtime: PhaseRuntime, report: SavedReport, *, final: bool) -> None:
        """After a checkpoint was published, at a step edge after the one that it holds.

        Which edge that is differs from rank to rank and from run to run: call no collective
        here, and let nothing that is trained or saved depend on it.
        """

    def phase_ended(self, runtime: PhaseRuntime, *, finished: bool) -> None:
        """After the last step of this process image; finished, or stopped on request."""


class CallbackList(Callback):
    """Calls several callbacks, in order."""

    def __init__(self, members: Sequence[Callback]) -> None:
        """Takes the callbacks in the order in which they are called."""
        self.members = tuple(members)

    def phase_started(self, runtime: PhaseRuntime) -> None:
        """Passes it on."""
        for member in self.members:
            member.phase_started(runtime)

    def step_began(self, runtime: PhaseRuntime) -> None:
        """Passes it on."""
        for member in self.members:
            member.step_began(runtime)

    def step_ended(self, runtime: PhaseRuntime) -> None:
        """Passes it on."""
        for member in self.members:
            member.step_ended(runtime)

    def validation_ended(self, runtime: PhaseRuntime, metrics: Mapping[str, float]) -> None:
        """Passes it on."""
        for member in self.members:
            member.validation_ended(runtime, metrics)

    def checkpoint_saved(self, runtime: PhaseRuntime, report: SavedReport, *, final: bool) -> None:
        """Passes it on."""
        for member in self.members:
            member.checkpoint_saved(runtime, report, final=final)

    def phase_ended(self, runtime: PhaseRuntime, *, finished: bool) -> None:
        """Passes it on."""
        for member in self.members:
            member.phase_ended(runtime, finished=finished)
