"""Made-up sessions on disk, as a run would leave them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phaseline.config.resolved import to_yaml
from phaseline.config.sections import Config
from phaseline.errors import ExitCode
from phaseline.session.attempts import (
    Adopted,
    Outcome,
    take_attempt,
    write_adopted,
    write_outcome,
)
from phaseline.session.identity import SessionIdentity, save_identity
from phaseline.session.layout import SessionLayout
from phaseline.session.records import RecordWriter
from unit.covered_lines import covered

TOKENS_PER_STEP = 2048


class SessionBuilder:
    """Writes a session's files; what a step records is a function of the step."""

    def __init__(self, root: Path, phases: Sequence[str] = ("pretrain", "instruct")) -> None:
        root.mkdir(parents=True)
        self.layout = SessionLayout(root)
        self.phases = phases
        self.configure()
        self.mark("open")

    def configure(self, **tracking: Any) -> None:
        """Writes the configuration; keywords replace settings of its `tracking`."""
        config = make_config(self.phases, tracking)
        self.layout.config_file.write_text(to_yaml(config), encoding="utf-8")

    def mark(self, state: Any) -> None:
        identity = SessionIdentity(
            id="5e551017",
            name="demo",
            created=1.76e9,
            config_fingerprint="f",
            wandb_id="runid123",
            phaseline_version="0.1.0",
            state=state,
            validated=[],
            place="",
        )
        save_identity(self.layout, identity)

    def attempt(self, *committed: tuple[int, int], resumed_from: str | None = None) -> int:
        """Takes an attempt that stands on so many lines of earlier ones."""
        attempt = take_attempt(self.layout)
        write_adopted(attempt, Adopted((), resumed_from, covered(*committed)))
        return attempt.number

    def train(self, attempt: int, steps: range, *, phase_idx: int = 0) -> None:
        """Records train steps of an attempt, a second apart."""
        self.append(attempt, [train_record(self.phases[phase_idx], step) for step in steps])

    def validate(self, attempt: int, step: int) -> None:
        """Records a validation of the first phase."""
        phase = self.phases[0]
        self.append(
            attempt, [make_record("validation", phase, step, {"validation/loss": 3 - step / 100})]
        )

    def append(self, attempt: int, records: Sequence[dict[str, Any]]) -> None:
        writer = RecordWriter(self.layout.attempt(attempt).metrics_file)
        writer.append(records)
        writer.close()

    def event(self, attempt: int, name: str, **facts: Any) -> None:
        writer = RecordWriter(self.layout.attempt(attempt).events_file)
        writer.append([{"time": 1.76e9, "event": name} | facts])
        writer.close()

    def end(self, attempt: int, code: ExitCode = ExitCode.FINISHED, reason: str = "done") -> None:
        self.event(attempt, "attempt_ended", code=int(code), reason=reason)
        write_outcome(self.layout.attempt(attempt), Outcome(code, reason, 1.76e9 + 5000))


def train_record(phase: str, step: int) -> dict[str, Any]:
    metrics = {"loss": 2 + 6 * math.exp(-step / 60), "lr": 1e-3, "grad_norm": 1.0}
    return make_record("train", phase, step, {f"train/{k}": v for k, v in metrics.items()})


def make_record(kind: str, phase: str, step: int, metrics: dict[str, float]) -> dict[str, Any]:
    return {
        "kind": kind,
        "phase": phase,
        "phase_step": step,
        "global_step": step,
        "tokens": step * TOKENS_PER_STEP,
        "metrics": {f"{phase}/{name}": value for name, value in metrics.items()},
        "timing": {"time": 1.76e9 + step, f"{phase}/train/tokens_per_s": 12345.0},
    }


def make_config(phases: Sequence[str], tracking: Mapping[str, Any] | None = None) -> Config:
    def phase(name: str) -> dict[str, Any]:
        return {
            "name": name,
            "objective": "causal_lm",
            "duration": "400 steps",
            "data": {"sources": [{"source": "python_stdlib"}], "sequence_length": 256},
            "batch": {"global_size": 8, "micro_size": 4},
            "optimizer": {"lr": 1e-3},
        }

    return Config.model_validate(
        {
            "session": {"name": "demo", "notes": "A made-up session."},
            "model": {"config": {"model_type": "llama", "hidden_size": 64}},
            "phases": [phase(name) for name in phases],
            "tracking": {
                "wandb": {"project": "demo-project", "tags": ["a", "b"]},
                **(tracking or {}),
            },
        }
    )
