"""What a report tells, gathered from a session's files."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from phaseline.config.known_objectives import loss_kind
from phaseline.config.sections import Config
from phaseline.errors import ExitCode, UsageError
from phaseline.session.attempts import read_adopted, read_error, read_outcome
from phaseline.session.identity import SessionIdentity, load_identity
from phaseline.session.layout import AttemptLayout, SessionLayout
from phaseline.session.lease import read_lease
from phaseline.session.metrics_view import read_metrics
from phaseline.session.record_ends import ends_of_phases, read_backwards
from phaseline.session.records import read_events, read_metric_records
from phaseline.session.stored_config import load_stored_config
from phaseline.tracking.metric_keys import VALIDATION_S
from phaseline.tracking.report_changes import ChangeStory, read_changes

_WORDS = {
    ExitCode.FINISHED: "finished",
    ExitCode.FAILED: "failed",
    ExitCode.USAGE: "refused",
    ExitCode.GATE: "stopped by a gate",
    ExitCode.NO_PROGRESS: "no progress",
    ExitCode.STOPPED: "stopped on request",
}


@dataclass(slots=True)
class PhaseStory:
    """What the records say about one phase.

    Attributes:
        name: The phase's name.
        objective: What it optimizes.
        planned: Its configured length.
        setting: Batch, sequence length and engine, for people.
        unit: What it counts as tokens: those of texts, and of images and features the samples.
        loss_kind: What its losses are; those of one kind can be compared.
        steps: Global step of every train record.
        losses: Training loss of each.
        lrs: Learning rate of each.
        speeds: Tokens per second of each, where known.
        num_steps: Steps of the phase that are done.
        num_tokens: Tokens that it consumed, in its unit.
        validations: Global step and metrics (without the phase's prefix) of each validation.
        sample_metrics: Newest metrics of its samples, without the phase's prefix.
        samples: Its newest generated samples.
    """

    name: str
    objective: str
    planned: str
    setting: str
    unit: str
    loss_kind: str
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    num_steps: int = 0
    num_tokens: int = 0
    validations: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    sample_metrics: dict[str, float] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()

    @property
    def first_loss(self) -> float | None:
        """Training loss of the first step."""
        return self.losses[0] if self.losses else None

    @property
    def last_loss(self) -> float | None:
        """Training loss of the last step, as displays show it."""
        return self.losses[-1] if self.losses else None

    @property
    def num_last_steps(self) -> int:
        """The steps that `mean_last_loss` is of: a twentieth of the phase, 50 at most."""
        return max(1, min(50, len(self.losses) // 20))

    @property
    def mean_last_loss(self) -> float | None:
        """Training loss, mean over the last steps."""
        last = self.losses[-self.num_last_steps :]
        return statistics.fmean(last) if last else None

    @property
    def tokens_per_s(self) -> float | None:
        """Median speed."""
        return statistics.median(self.speeds) if self.speeds else None

    @property
    def validation_changes(self) -> list[tuple[str, float | None, float]]:
        """Every validation metric: its name, its first value if there are two, its last.

        What a clock measured is none: it tells nothing about the weights.
        """
        if not self.validations:
            return []
        first, last = self.validations[0][1], self.validations[-1][1]
        several = len(self.validations) > 1
        return [
            (name, first.get(name) if several else None, value)
            for name, value in last.items()
            if name != VALIDATION_S.name
        ]

    @property
    def has_bits_per_byte(self) -> bool:
        """Whether validations measured them."""
        return self.validation("bits_per_byte") is not None

    def validation(self, name: str) -> float | None:
        """The newest value of a validation metric."""
        return self.validations[-1][1].get(name) if self.validations else None


@dataclass(frozen=True, slots=True)
class AttemptStory:
    """How one attempt went.

    Attributes:
        number: The attempt's number.
        resumed_from: The checkpoint it went on from; None: it began anew.
        first_step: Global step of its first train record.
        last_step: Global step of its last one.
        ended: Unix time of its end, or of the last that it recorded; None: it runs, or recorded
            nothing.
        result: How it ended, in a word or two.
        reason: More on that.
    """

    number: int
    resumed_from: str | None
    first_step: int | None
    last_step: int | None
    ended: float | None
    result: str
    reason: str


@dataclass(frozen=True, slots=True)
class SessionStory:
    """Everything that a report shows."""

    root: Path
    identity: SessionIdentity
    config: Config
    phases: Sequence[PhaseStory]
    attempts: Sequence[AttemptStory]
    changes: Sequence[ChangeStory] = ()
    passed_over: Sequence[str] = ()

    @property
    def num_steps(self) -> int:
        """Optimizer steps of all phases."""
        return sum(phase.num_steps for phase in self.phases)

    @property
    def consumed(self) -> Mapping[str, int]:
        """What all phases consumed, by its unit; tokens if they consumed nothing."""
        found: dict[str, int] = {}
        for phase in self.phases:
            if phase.num_tokens:
                found[phase.unit] = found.get(phase.unit, 0) + phase.num_tokens
        return found or {"tokens": 0}


def gather_story(session_dir: Path) -> SessionStory:
    """Reads a session's records, attempts and configuration.

    Raises:
        UsageError: The folder holds no session.
        SessionError: One of its files is damaged.
    """
    layout = SessionLayout(session_dir)
    identity = load_identity(layout)
    if identity is None or not layout.config_file.exists():
        raise UsageError(
            f"{session_dir} holds no session: session.json or config.yaml is missing. "
            "Name a session's folder, as runs/<session.name>."
        )
    config = load_stored_config(layout)
    attempts = [_attempt(layout, n, identity) for n in sorted(layout.attempt_numbers())]
    passed_over: list[str] = []
    return SessionStory(
        root=session_dir,
        identity=identity,
        config=config,
        phases=_phases(layout, config, passed_over.append),
        attempts=attempts,
        changes=[
            change
            for one in attempts
            for change in read_changes(layout.attempt(one.number), one.first_step)
        ],
        passed_over=passed_over,
    )


def _phases(layout: SessionLayout, config: Config, say: Callable[[str], None]) -> list[PhaseStory]:
    stories = {
        phase.name: PhaseStory(
            name=phase.name,
            objective=phase.objective,
            planned=str(phase.duration),
            setting=(
                f"{phase.step_text} a step, {phase.optimizer.name} at "
                f"{phase.optimizer.lr:g}, {phase.schedule.name}, {phase.engine.label}"
            ),
            unit=phase.unit,
            loss_kind=loss_kind(phase.objective),
        )
        for phase in config.phases
    }
    tokens_before = 0
    for record in read_metrics(layout, say=say):
        story = stories.get(record["phase"])
        if story is None:
            continue
        _take(story, record)
        # The record counts tokens over the session.
        story.num_tokens += record["tokens"] - tokens_before
        tokens_before = record["tokens"]
    return list(stories.values())


def _take(story: PhaseStory, record: Mapping[str, Any]) -> None:
    prefix = f"{story.name}/"
    named = {**record["timing"], **record["metrics"]}
    story.num_steps = max(story.num_steps, record["phase_step"])
    if record["kind"] == "train":  # there may be millions
        loss, lr = named.get(f"{prefix}train/loss"), named.get(f"{prefix}train/lr")
        if loss is None or lr is None:
            return  # damaged, in the name of a metric
        story.steps.append(record["global_step"])
        story.losses.append(float(loss))
        story.lrs.append(float(lr))
        if speed := named.get(f"{prefix}train/tokens_per_s"):
            story.speeds.append(float(speed))
        return
    values = {k.removeprefix(prefix): float(v) for k, v in named.items() if k.startswith(prefix)}
    if record["kind"] == "validation":
        story.validations.append((record["global_step"], _group(values, "validation/")))
    elif record["kind"] == "samples":
        story.sample_metrics = _group(values, "samples/")
        story.samples = record.get("samples", ())


def _group(values: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def _attempt(layout: SessionLayout, number: int, identity: SessionIdentity) -> AttemptStory:
    attempt = layout.attempt(number)
    adopted, outcome, error = read_adopted(attempt), read_outcome(attempt), read_error(attempt)
    first, last = _outer_steps(attempt)
    result, reason = _result(layout, number, identity)
    ended = outcome.time if outcome else error.time if error else _last_sign(attempt) or None
    return AttemptStory(
        number=number,
        resumed_from=_short(adopted.resumed_from) if adopted and adopted.resumed_from else None,
        first_step=first,
        last_step=last,
        ended=None if result == "running" else ended,
        result=result,
        reason=reason,
    )


def _outer_steps(attempt: AttemptLayout) -> tuple[int | None, int | None]:
    """Global steps of an attempt's first and last train record; steps come in order."""
    path = attempt.metrics_file
    trained = (one for one in read_metric_records(path) if one["kind"] == "train")
    first = next(trained, None)
    if first is None:
        return None, None
    end = next(end for _, end in ends_of_phases(path))
    last = next(one for one in read_backwards(path, end) if one["kind"] == "train")
    return first["global_step"], last["global_step"]


def _last_sign(attempt: AttemptLayout) -> float:
    """Unix time of the last event or record; 0 if there is none."""
    events = (event.get("time", 0) for event in read_events(attempt.events_file))
    path = attempt.metrics_file
    newest = [next(read_backwards(path, end)) for _, end in islice(ends_of_phases(path), 1)]
    return max([*events, *(record["timing"]["time"] for record in newest)], default=0)


def _short(checkpoint: str) -> str:
    """`pretrain/step-00000500.a0001` for `phases/pretrain/run-1/checkpoints/step-...`."""
    parts = Path(checkpoint).parts
    return f"{parts[1]}/{parts[-1]}" if len(parts) > 2 else checkpoint


def _result(layout: SessionLayout, number: int, identity: SessionIdentity) -> tuple[str, str]:
    attempt = layout.attempt(number)
    outcome, error = read_outcome(attempt), read_error(attempt)
    if outcome is not None:
        return _WORDS[ExitCode(outcome.code)], outcome.reason
    if error is not None:
        where = f"rank {error.rank} on {error.host}"
        where += f", {error.phase} step {error.step}" if error.phase else ""
        return "failed", f"{where}: {error.kind}: {error.message}"
    if number < max(layout.attempt_numbers()):
        return "killed", "it left no outcome"
    # The report of a session that ends well is written before the attempt's outcome.
    if identity.state == "finished":
        return "finished", ""
    lease = read_lease(layout)
    is_running = lease is not None and lease.is_held()
    return ("running", "") if is_running else ("killed", "it left no outcome")
