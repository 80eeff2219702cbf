"""Step five of a run: what it leaves for others."""

from __future__ import annotations

from dataclasses import replace

from phaseline.checkpoint.manifest import list_kept
from phaseline.checkpoint.reader import CheckpointReader, load_weights
from phaseline.data.cache import Cache
from phaseline.data.tokenizer_building import build_tokenizer
from phaseline.errors import CheckpointError
from phaseline.models.build import build_model
from phaseline.models.export import export_model
from phaseline.session.metrics_view import read_metrics
from phaseline.tracking.console import Display
from phaseline.tracking.report import write_report
from phaseline.training.pipeline.configuration_builder import TrainingConfiguration
from phaseline.training.pipeline.content_identity import require_same_tokenizer
from phaseline.training.pipeline.session_manager import OpenSession


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
        config = self._configuration.config
        layout = self._session.layout
        trusted = set(self._session.trusted_checkpoints())
        published = [path for path in list_kept(layout.phase(phase)) if path in trusted]
        if not published:
            raise CheckpointError(
                f"export.phases names {phase}, which has no checkpoint in {layout.root}."
            )
        tokenizer = build_tokenizer(config.tokenizer, Cache.configured(config.preparation))
        module = build_model(
            config.model,
            vocab_size=tokenizer.vocab_size,
            special_ids={"eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id},
        )
        folder = layout.exports_dir / phase
        with CheckpointReader(published[-1]) as reader:
            require_same_tokenizer(reader, tokenizer, phase)
            load_weights(reader, module)
        export_model(module, folder, save_tokenizer=tokenizer.save)
        self._session.event("exported", phase=phase)
        self._display.note(f"exported {phase} to {folder}")

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
    lines = []
    for phase, metrics in latest.items():
        shown = ", ".join(
            f"{key.split('/', 1)[1].replace('_', ' ')} {float(value):.4f}"
            for key, value in metrics.items()
            if not key.endswith("/count")
        )
        lines.append(f"{phase}: {tokens[phase]:,} tokens in all, {shown}")
    return lines
