"""Callbacks that kill their own rank, or hold it, at a chosen moment, once.

`KILL_AT` says when, as `rank:moment:phase:step`; without it nothing happens. The moments lie
inside calls that no test could hit from outside every time: in the middle of a save, after
the first batch of a validation, after a phase's last checkpoint.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from phaseline.training.phases import held_out
from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.runtime import PhaseRuntime

VARIABLE = "KILL_AT"
HOLD = "HOLD_AT"


class KillAt(Callback):
    """Dies as `KILL_AT` says."""

    def __init__(self) -> None:
        rank, self.moment, self.phase, step = os.environ.get(VARIABLE, "-1:::0").split(":")
        self.rank, self.step = int(rank), int(step)

    def step_ended(self, runtime: PhaseRuntime) -> None:
        if not self._is_here(runtime) or runtime.position.phase_step != self.step:
            return
        # What was saved steps ago is to be there, however fast steps are and slow the disk is.
        runtime.store.wait()
        if self.moment == "step":
            _die()
        if self.moment == "save":
            _die_at_call(os, "fsync", 2)
        if self.moment == "publish":
            _die_at_call(os, "rename", 1)
        if self.moment == "validation":
            _die_at_call(held_out.HeldOutTotals, "add", 2)

    def phase_ended(self, runtime: PhaseRuntime, *, finished: bool) -> None:
        if self._is_here(runtime) and self.moment == "edge":
            assert finished
            _die()

    def _is_here(self, runtime: PhaseRuntime) -> bool:
        return runtime.world.dp_rank == self.rank and runtime.section.name == self.phase


class HoldAt(Callback):
    """Waits after the phase step that `HOLD_AT` names until its one rank is asked to stop."""

    def __init__(self) -> None:
        self.step = int(os.environ.get(HOLD, "0"))

    def step_ended(self, runtime: PhaseRuntime) -> None:
        while runtime.position.phase_step == self.step and not runtime.stop.agreed():
            time.sleep(0.01)


def _die_at_call(owner: Any, name: str, number: int) -> None:
    original, calls = getattr(owner, name), []

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) == number:
            _die()
        return original(*args, **kwargs)

    setattr(owner, name, dying)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
