"""One start of a session: its number, what it stood on, and how it ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from phaseline.errors import ExitCode
from phaseline.session.committed import CommittedLines
from phaseline.session.files import fsync_folder, write_json, write_json_once
from phaseline.session.layout import AttemptLayout, SessionLayout
from phaseline.session.record_ends import ends_of_phases, read_backwards
from phaseline.session.records import read_events
from phaseline.session.stored import CheckpointPath, Count, StoredFileError, UnixTime, read_stored

_Record = TypeVar("_Record")

_LAST_NUMBER = 10**9 - 1
_WRITTEN_WHOLE = (
    "Every file here is written whole, so the disk or another program changed it: restore it from "
    "a copy, or remove it if there is none."
)


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended on purpose.

    Attributes:
        code: The exit code that the command reports.
        reason: Why, for people.
        time: Unix time, seconds.
    """

    code: ExitCode
    reason: str
    time: UnixTime


@dataclass(frozen=True)
class Adopted:
    """What an attempt stood on when it began.

    Attributes:
        checkpoints: Checkpoints that it trusts, as paths relative to the session directory.
        resumed_from: The one of them that it went on from; None if it began anew.
        committed: The metrics that this one stands on, in order.
    """

    checkpoints: tuple[CheckpointPath, ...]
    resumed_from: CheckpointPath | None
    committed: tuple[CommittedLines, ...]


@dataclass(frozen=True)
class ErrorRecord:
    """The failure of a rank.

    Attributes:
        rank: The rank that failed.
        host: Where it ran.
        phase: The phase at hand, if there was one.
        step: Completed steps of that phase.
        kind: The exception's class.
        message: The exception's text.
        traceback: Where it came from.
        consequence: Whether the rank only failed because another was gone.
        time: Unix time, seconds.
    """

    rank: Count
    host: str
    phase: str | None
    step: Count | None
    kind: str
    message: str
    traceback: str
    consequence: bool
    time: UnixTime

    @property
    def where(self) -> str:
        """As `rank 1 on node2, pretrain step 40`."""
        place = f"rank {self.rank} on {self.host}"
        if self.phase is not None:
            place += f", {self.phase}"
        if self.step is not None:
            place += f" step {self.step}"
        return place


def take_attempt(layout: SessionLayout) -> AttemptLayout:
    """Makes the folder of a new attempt; making it is what takes the number."""
    layout.attempts_dir.mkdir(parents=True, exist_ok=True)
    while True:
        attempt = layout.attempt(max(layout.attempt_numbers(), default=0) + 1)
        if attempt.number > _LAST_NUMBER:
            raise StoredFileError(
                f"{layout.attempts_dir} holds an attempt of the number {_LAST_NUMBER}, which no "
                "session reaches: somebody made that folder. Remove it."
            )
        try:
            attempt.dir.mkdir()
        except FileExistsError:
            continue  # another process took this number
        fsync_folder(layout.attempts_dir)
        return attempt


def write_outcome(attempt: AttemptLayout, outcome: Outcome) -> None:
    """Records how the attempt ended."""
    write_json(attempt.outcome_file, asdict(outcome))


def read_outcome(attempt: AttemptLayout) -> Outcome | None:
    """Returns how the attempt ended; None if it runs, or was killed, or failed."""
    return _read(attempt.outcome_file, Outcome)


def write_adopted(attempt: AttemptLayout, adopted: Adopted) -> None:
    """Fixes what the attempt stands on."""
    write_json(attempt.adopted_file, asdict(adopted))


def read_adopted(attempt: AttemptLayout) -> Adopted | None:
    """Returns what the attempt stands on; None if it ended before it knew."""
    return _read(attempt.adopted_file, Adopted)


def write_error(attempt: AttemptLayout, record: ErrorRecord) -> None:
    """Records a failure unless one was recorded before. Any number of ranks may call it.

    Failures that follow from another go to a file of their own, so that the cause is never
    hidden by them, whoever comes first.
    """
    path = attempt.consequence_file if record.consequence else attempt.error_file
    write_json_once(path, asdict(record))


def read_error(attempt: AttemptLayout) -> ErrorRecord | None:
    """Returns the first failure, a cause before a consequence; None if no rank left one."""
    for path in (attempt.error_file, attempt.consequence_file):
        record = _read(path, ErrorRecord)
        if record is not None:
            return record
    return None


def last_place(attempt: AttemptLayout) -> tuple[str | None, int | None]:
    """The phase that the attempt was last seen in, and its steps: for what left no record."""
    phase, step = None, None
    for event in read_events(attempt.events_file):
        if event.get("event") == "phase_started":
            phase, step = event["phase"], event.get("phase_step")
    for name, end in ends_of_phases(attempt.metrics_file):
        if name == phase:
            step = next(read_backwards(attempt.metrics_file, end))["phase_step"]
    return phase, step


def _read(path: Path, model: type[_Record]) -> _Record | None:
    try:
        return read_stored(path, model, remedy=_WRITTEN_WHOLE)
    except FileNotFoundError:
        return None
