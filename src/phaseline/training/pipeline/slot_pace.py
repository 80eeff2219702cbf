"""Measuring, for the end of a job's time, what steps and saves take."""

from __future__ import annotations

import time
from collections.abc import Mapping

from phaseline.checkpoint.store import SavedReport
from phaseline.cluster.slot import Slot
from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.runtime import PhaseRuntime


class SlotPace(Callback):
    """Tells the slot; what lies between a validation and the next step is no step."""

    def __init__(self, slot: Slot) -> None:
        """Takes the slot of the job at hand."""
        self._slot = slot
        self._last_s: float | None = None

    def step_ended(self, runtime: PhaseRuntime) -> None:
        """Measures from the end of the step before."""
        del runtime
        now = time.monotonic()
        if self._last_s is not None:
            self._slot.step_took(now - self._last_s)
        self._last_s = now

    def validation_ended(self, runtime: PhaseRuntime, metrics: Mapping[str, float]) -> None:
        """Begins anew."""
        del runtime, metrics
        self._last_s = None

    def checkpoint_saved(self, runtime: PhaseRuntime, report: SavedReport, *, final: bool) -> None:
        """Passes on what the save took."""
        del runtime, final
        self._slot.save_took(report.duration_s)
