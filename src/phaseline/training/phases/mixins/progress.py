"""Showing where the phase stands."""

from __future__ import annotations

from phaseline.distributed.guards import main_process_only
from phaseline.tracking import metric_keys as keys
from phaseline.tracking.console import PhaseBanner, Progress
from phaseline.training.phases.mixins.host import PhaseHost


class ProgressMixin(PhaseHost):
    """Feeds the display.

    **Needs:** display, plan, position, clock, data, last metrics and timing. **Gives:** what a
    person sees.
    **Ranks:** all; only the main one shows. **Collectives:** none.
    """

    @main_process_only
    def announce_phase(self) -> None:
        """Says which phase begins or goes on."""
        runtime = self.runtime
        section, plan = runtime.section, runtime.plan
        runtime.display.phase_started(
            PhaseBanner(
                name=section.name,
                idx=runtime.phase_idx,
                num_phases=runtime.num_phases,
                num_steps=plan.num_steps,
                description=runtime.description,
            )
        )

    @main_process_only
    def show_progress(self) -> None:
        """Shows the step at hand, and the latest metrics that were read."""
        runtime = self.runtime
        runtime.clock.note_shown()
        position, clock, metrics = runtime.position, runtime.clock, runtime.last_metrics
        phase = runtime.section.name
        runtime.display.update(
            Progress(
                phase=phase,
                phase_idx=runtime.phase_idx,
                num_phases=runtime.num_phases,
                step=position.phase_step,
                num_steps=runtime.plan.num_steps,
                global_step=position.global_step,
                loss=metrics.get(keys.LOSS.key(phase)),
                validation_loss=position.validation_loss,
                lr=metrics.get(keys.LR.key(phase)),
                grad_norm=metrics.get(keys.GRAD_NORM.key(phase)),
                tokens_per_s=clock.tokens_per_s or None,
                mfu=runtime.last_timing.get(keys.MFU.key(phase)),
                phase_left_s=clock.phase_left_s,
                session_left_s=clock.session_left_s,
                is_read=runtime.step_metrics.is_empty,
                unit=runtime.section.unit,
            )
        )

    @main_process_only
    def show_epochs(self) -> None:
        """Says how often the phase has gone through each of its sources."""
        runtime = self.runtime
        epochs = runtime.data.epochs(runtime.position.phase_step)
        shown = ", ".join(
            f"{count:.2f} epochs of {name}"
            for name, count in zip(runtime.data.source_names, epochs, strict=True)
        )
        runtime.display.note(f"{runtime.section.name}: {shown}")

    @main_process_only
    def say(self, text: str) -> None:
        """Shows a line of text."""
        self.runtime.display.note(text)
