"""Step five of a run: what it leaves for others."""

from __future__ import annotations

from dataclasses import replace

from phaseline.session.metrics_view import read_metrics
from phaseline.session.stored_config import load_stored_config
from phaseline.tracking.console import Display
from phaseline.tracking.report import write_report
from phaseline.training.pipeline.configuration_builder import TrainingConfiguration
from phaseline.training.pipeline.exporting import ExportForm, export_phase
from phaseline.training.pipeline.phase_checkpoints import choose, wanted_of
from phaseline.training.pipeline.session_manager import OpenSession
from phaseline.training.pipeline.trained_phase import TrainedPhase
from phaseline.units import parse_size


class Finalization:
    """Exports what is asked for, writes the report and marks the session."""

    def __init__(
        self, configuration: TrainingConfiguration, session: OpenSession, display: Display
    ) -> None:
        """Takes the finished session.

        Args:
            configuration: The run's configuration.
            session: The open session, every phase trained.
            display: What a person sees.
        """
        self._configuration = configuration
        self._session = session
        self._display = display

    def run(self) -> None:
        """Does everything that finalization is for. **Ranks:** main. No collective."""
        for name in self._configuration.config.export.phases:
            self._export(name)
        identity = self._session.identity
        assert identity is not None
        self._session.save(replace(identity, state="finished"))
        self._report()
        self._session.event("session_finished")

    def _export(self, phase: str) -> None:
        config, layout = self._configuration.config, self._session.layout
        assert self._session.identity is not None
        checkpoint = choose(
            wanted_of(config, phase, config.export.at),
            self._session.trusted_checkpoints(),
            session=self._session.identity.id,
        )
        folder = layout.exports_dir / phase
        form = ExportForm(
            dtype=config.export.dtype,
            max_shard_bytes=parse_size(config.export.max_shard_size),
            lora=self._lora_of(phase),
        )
        # One that is there was left by an attempt that ended before the session did.
        trained = TrainedPhase.at(layout, config, phase, checkpoint)
        export_phase(trained, folder, form, replace=True)
        self._session.event("exported", phase=phase)
        self._display.note(f"exported {phase} to {folder}")

    def _lora_of(self, phase: str) -> str:
        """One setting for all phases: those without adapters are exported whole."""
        config = self._configuration.config
        section = next(section for section in config.phases if section.name == phase)
        return "merged" if section.trainable.lora is None else config.export.lora

    def _report(self) -> None:
        """A report that cannot be drawn must not cost a finished session its end."""
        try:
            path = write_report(self._session.layout.root)
        except Exception as error:  # noqa: BLE001 - drawing may fail in any way
            self._display.note(f"the report could not be written: {error}")
            return
        self._display.note(f"report: {path}")


def summarize(session: OpenSession) -> list[str]:
    """One line per phase with what it reached, for people."""
    latest: dict[str, dict[str, float]] = {}
    tokens: dict[str, int] = {}
    for record in read_metrics(session.layout):
        if record["kind"] in ("validation", "samples"):
            latest.setdefault(record["phase"], {}).update(record["metrics"])
        tokens[record["phase"]] = record["tokens"]
    phases = load_stored_config(session.layout).phases
    # The count goes on over phases.
    units = " and ".join(dict.fromkeys(phase.unit for phase in phases))
    lines = []
    for phase, metrics in latest.items():
        shown = ", ".join(
            f"{(key.partition('/')[2] or key).replace('_', ' ')} {float(value):.4f}"
            for key, value in metrics.items()
            if not key.endswith("/count")
        )
        lines.append(f"{phase}: {tokens[phase]:,} {units} in all, {shown}")
    return lines
