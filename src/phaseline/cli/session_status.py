"""What a session directory says about itself, gathered for people. No torch, nothing written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from phaseline.checkpoint.manifest import Manifest
from phaseline.checkpoint.trust import list_inherited
from phaseline.cli.job_status import JobStatus, gather_jobs
from phaseline.config.sections import Config, PhaseSection
from phaseline.errors import CheckpointError, ExitCode
from phaseline.session.attempts import read_error, read_outcome
from phaseline.session.identity import SessionIdentity, load_identity
from phaseline.session.layout import AttemptLayout, SessionLayout
from phaseline.session.lease import LeaseState, read_lease
from phaseline.session.metrics_view import read_newest
from phaseline.session.pace import phase_lengths
from phaseline.session.records import read_events
from phaseline.session.stored_config import load_stored_config

_ENDS = {
    ExitCode.FINISHED: "finished",
    ExitCode.FAILED: "failed",
    ExitCode.USAGE: "refused",
    ExitCode.GATE: "stopped by a gate",
    ExitCode.NO_PROGRESS: "given up",
    ExitCode.STOPPED: "stopped",
}


@dataclass(frozen=True)
class PhaseStatus:
    """How far a phase is.

    Attributes:
        name: The phase.
        state: trained, training, interrupted, or waiting.
        step: Completed steps that were recorded.
        length: Its length in steps, or the configured duration if it never began.
        done_frac: Share of its steps that is done; None: its length is not known yet.
        loss: Of the last step that was recorded.
        tokens: Tokens that the session has consumed at that step.
        checkpoint: Its newest checkpoint that the session trusts.
    """

    name: str
    state: str
    step: int
    length: str
    done_frac: float | None
    loss: float | None
    tokens: int | None
    checkpoint: Path | None

    @property
    def has_begun(self) -> bool:
        """Whether it has trained."""
        return self.state != "waiting"


@dataclass(frozen=True)
class AttemptStatus:
    """How an attempt went.

    Attributes:
        number: The attempt.
        began: Unix time; None if it left no record.
        ended: Unix time; None if it runs or left no word.
        end: In one word or two.
        reason: Why, or where it failed.
    """

    number: int
    began: float | None
    ended: float | None
    end: str
    reason: str


@dataclass(frozen=True)
class SessionStatus:
    """How a session stands.

    Attributes:
        layout: Its directory.
        name: Its name.
        state: finished, running, or how the last attempt ended.
        phases: In order.
        attempts: In order.
        lease: Who holds it, or held it last.
    """

    layout: SessionLayout
    name: str
    state: str
    phases: tuple[PhaseStatus, ...]
    attempts: tuple[AttemptStatus, ...]
    lease: LeaseState | None
    jobs: JobStatus

    @property
    def current_phase(self) -> PhaseStatus | None:
        """The phase that is at hand, or the last one that was."""
        begun = [phase for phase in self.phases if phase.has_begun]
        return begun[-1] if begun else None

    @property
    def newest_checkpoint(self) -> Path | None:
        """The checkpoint that got furthest."""
        saved = [phase.checkpoint for phase in self.phases if phase.checkpoint is not None]
        return saved[-1] if saved else None


def find_sessions(directory: Path) -> list[SessionLayout]:
    """Returns the session at a directory, or those right below it, by name."""
    layouts = [SessionLayout(directory)]
    if not is_session(layouts[0]) and directory.is_dir():
        layouts = [SessionLayout(path) for path in sorted(directory.iterdir())]
    return [layout for layout in layouts if is_session(layout)]


def is_session(layout: SessionLayout) -> bool:
    """Whether a session was created there that one may look at."""
    try:
        return layout.session_file.is_file()
    except PermissionError:
        return False


def gather_status(layout: SessionLayout) -> SessionStatus:
    """Reads how a session stands; it may be running.

    Raises:
        SessionError: One of its files is damaged.
    """
    identity = load_identity(layout)
    assert identity is not None
    lease = read_lease(layout)
    is_running = lease is not None and lease.is_held()
    numbers = layout.attempt_numbers()
    config = load_stored_config(layout)
    phases = tuple(_phases(layout, config, is_running=is_running))
    attempts = tuple(
        describe_attempt(layout.attempt(number), is_running=is_running and number == numbers[-1])
        for number in numbers
    )
    return SessionStatus(
        layout=layout,
        name=identity.name,
        state=_state(identity, attempts, is_running=is_running),
        phases=phases,
        attempts=attempts,
        lease=lease,
        jobs=gather_jobs(layout, config, {one.name: one.step for one in phases if one.has_begun}),
    )


def _state(
    identity: SessionIdentity, attempts: tuple[AttemptStatus, ...], *, is_running: bool
) -> str:
    if is_running:
        return "running"
    if identity.state == "finished":
        return "finished"
    return attempts[-1].end if attempts else "created"


def describe_attempt(attempt: AttemptLayout, *, is_running: bool = False) -> AttemptStatus:
    """Reads how an attempt went.

    Args:
        attempt: Its folder.
        is_running: Whether it runs now, which only the session's lease can tell.
    """
    began = next((record.get("time") for record in read_events(attempt.events_file)), None)
    outcome, error = read_outcome(attempt), read_error(attempt)
    ended, end, reason = None, "killed", "it left no word"
    if outcome is not None:
        ended, end, reason = outcome.time, _ENDS[outcome.code], outcome.reason
    elif error is not None:
        first_line = error.message.partition("\n")[0]
        ended, end, reason = error.time, "failed", f"{error.where}: {error.kind}: {first_line}"
    elif is_running:
        is_asked = attempt.stop_file.exists()
        end, reason = "running", "asked to stop" if is_asked else ""
    return AttemptStatus(number=attempt.number, began=began, ended=ended, end=end, reason=reason)


def _phases(layout: SessionLayout, config: Config, *, is_running: bool) -> Iterator[PhaseStatus]:
    last_records: dict[str, dict[str, Any]] = {}
    losses: dict[str, float] = {}
    for name, records in read_newest(layout).items():
        last_records[name] = newest = next(records)
        found = (record["metrics"].get(f"{name}/train/loss") for record in chain([newest], records))
        # Not finite is recorded as a text.
        losses[name] = float(next((loss for loss in found if loss is not None), "nan"))
    lengths = phase_lengths(layout)
    saved = _newest_trusted(layout)
    begun = [phase.name for phase in config.phases if phase.name in last_records | lengths]
    for phase in config.phases:
        last = last_records.get(phase.name)
        step = 0 if last is None else last["phase_step"]
        state = "waiting"
        if phase.name in begun:
            state = "training" if is_running and phase.name == begun[-1] else "interrupted"
        if _is_final(saved.get(phase.name)):
            state = "trained"
        yield PhaseStatus(
            name=phase.name,
            state=state,
            step=step,
            length=_length_text(phase, lengths),
            done_frac=step / lengths[phase.name] if lengths.get(phase.name) else None,
            loss=losses.get(phase.name),
            tokens=None if last is None else last["tokens"],
            checkpoint=saved.get(phase.name),
        )


def _length_text(phase: PhaseSection, lengths: dict[str, int]) -> str:
    return str(lengths[phase.name]) if phase.name in lengths else str(phase.duration)


def _newest_trusted(layout: SessionLayout) -> dict[str, Path]:
    """Each phase's newest checkpoint that an attempt which begins now may adopt."""
    next_attempt = max(layout.attempt_numbers(), default=0) + 1
    trusted = sorted(list_inherited(layout, next_attempt), key=lambda path: path.name)
    return {path.parents[2].name: path for path in trusted}


def _is_final(checkpoint: Path | None) -> bool:
    if checkpoint is None:
        return False
    try:
        return Manifest.load(checkpoint).final
    except CheckpointError:
        return False
