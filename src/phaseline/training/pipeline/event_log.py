"""What happened in an attempt, as records."""

from __future__ import annotations

from phaseline.checkpoint.store import SavedReport
from phaseline.training.phases.callbacks import Callback
from phaseline.training.phases.runtime import PhaseRuntime
from phaseline.training.pipeline.session_manager import OpenSession


class EventLog(Callback):
    """Writes the edges of phases and the checkpoints into the attempt's events."""

    def __init__(self, session: OpenSession) -> None:
        """Takes the session whose attempt is told about."""
        self._session = session

    def phase_started(self, runtime: PhaseRuntime) -> None:
        """Records that a phase began or goes on."""
        self._session.event(
            "phase_started",
            phase=runtime.section.name,
            phase_step=runtime.position.phase_step,
            num_steps=runtime.plan.num_steps,
            engine=runtime.engine.settings.name,
            description=runtime.description,
        )

    def checkpoint_saved(self, runtime: PhaseRuntime, report: SavedReport, *, final: bool) -> None:
        """Records where state was saved."""
        self._session.event(
            "checkpoint_saved",
            phase=runtime.section.name,
            phase_step=report.position.phase_step,
            checkpoint=report.folder.name,
            duration_s=round(report.duration_s, 4),
            stall_s=round(report.stall_s, 4),
            stall_frac=round(report.stall_frac, 6),
            size_bytes=report.size_bytes,
            final=final,
            problem=report.problem,
        )

    def phase_ended(self, runtime: PhaseRuntime, *, finished: bool) -> None:
        """Records that a phase ended or was stopped."""
        self._session.event(
            "phase_finished" if finished else "phase_stopped",
            phase=runtime.section.name,
            phase_step=runtime.position.phase_step,
        )
