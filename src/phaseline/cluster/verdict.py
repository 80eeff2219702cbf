"""How a started session ended: the exit code, and what a person should know about it.

The ranks' own exit codes do not say: torch's agent turns any code but 0 of any rank into
1. So the newest attempt's `outcome.json` decides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile

from phaseline.cluster.agent_output import Death
from phaseline.cluster.progress import newest_checkpoint
from phaseline.cluster.refusal import Refusal
from phaseline.errors import ExitCode
from phaseline.session.attempts import ErrorRecord, read_error, read_outcome
from phaseline.session.layout import AttemptLayout, SessionLayout

_NUM_TRACEBACK_LINES = 6
_RECORD_BYTES = 1 << 16
"""Larger than what a rank leaves, which a nearly full disk may still take."""
RESUME = "Run the same command to resume."


@dataclass(frozen=True)
class Verdict:
    """An exit code, and the lines that explain it to a person."""

    code: ExitCode
    message: str


def newest_attempt(layout: SessionLayout) -> int:
    """The highest attempt number that is taken; 0 before the first."""
    return max(layout.attempt_numbers(), default=0)


def judge(
    layout: SessionLayout,
    *,
    since: int,
    stop_requested: bool = False,
    left_at_once: bool = False,
    refusal: Refusal | None = None,
    death: Death | None = None,
    unrecorded: AttemptLayout | None = None,
) -> Verdict:
    """Says how what was started after attempt `since` ended.

    Args:
        layout: The session's directory.
        since: The newest attempt before the start; older outcomes say nothing about it.
        stop_requested: Whether the ranks were asked to stop.
        left_at_once: Whether they were killed because they were asked twice.
        refusal: What the main rank left because it would not begin an attempt.
        death: The rank that failed first, as torch's agent tells it.
        unrecorded: Where ranks left what they could not record in their attempt.
    """
    if refusal is not None:
        # An attempt that came since is another start's.
        return Verdict(refusal.code, f"phaseline: {refusal.message}")
    number = newest_attempt(layout)
    places = [] if unrecorded is None else [unrecorded]
    if number > since:
        places.insert(0, layout.attempt(number))
    outcome = next(filter(None, map(read_outcome, places)), None)
    if number <= since and outcome is None and not any(map(read_error, places)):
        return _never_begun(layout, death, stop_requested=stop_requested)
    if outcome is None and left_at_once:
        lines = ["Left at once; what came after the last save is lost."]
        return Verdict(ExitCode.FAILED, "\n".join([*lines, *_rows(_saved_row(layout)), RESUME]))
    if outcome is None:
        return Verdict(ExitCode.FAILED, _describe_failure(layout, places))
    if outcome.code == ExitCode.FINISHED:
        return Verdict(outcome.code, describe_finished(layout))
    head = f"{_OUTCOMES.get(outcome.code, 'Ended')}: {outcome.reason}"
    lines = [head, *_rows(_saved_row(layout))]
    if outcome.code == ExitCode.STOPPED:
        lines.append(RESUME)
    return Verdict(outcome.code, "\n".join(lines))


_OUTCOMES = {
    ExitCode.FAILED: "Failed",
    ExitCode.USAGE: "Refused",
    ExitCode.GATE: "Stopped by a gate",
    ExitCode.NO_PROGRESS: "Given up without progress",
    ExitCode.STOPPED: "Everything is saved",
}


def describe_finished(layout: SessionLayout) -> str:
    """Says that the session is finished and where what it made lies."""
    rows = [("session", str(layout.root))]
    if layout.report_file.exists():
        rows.append(("report", str(layout.report_file)))
    if layout.exports_dir.is_dir():
        rows += [("export", str(path)) for path in sorted(layout.exports_dir.iterdir())]
    return "\n".join(["The session is finished.", *_rows(rows)])


def _never_begun(layout: SessionLayout, death: Death | None, *, stop_requested: bool) -> Verdict:
    if stop_requested:
        return Verdict(
            ExitCode.STOPPED, f"Stopped before anything was begun in {layout.root}. {RESUME}"
        )
    reason = "the reason is above."
    if death is not None and death.is_killed:
        reason = f"rank {death.rank} was {death.message}."
    return Verdict(
        ExitCode.FAILED,
        f"The ranks ended before they began an attempt in {layout.root}; {reason}",
    )


def _describe_failure(layout: SessionLayout, places: Sequence[AttemptLayout]) -> str:
    attempt = places[0]
    left = filter(None, map(read_error, places))
    error = min(left, key=lambda record: record.consequence, default=None)
    if error is None:
        rows = [("error", _why_no_record(attempt)), ("logs", str(attempt.dir))]
    else:
        rows = [
            ("where", error.where),
            *_traceback_row(error),
            ("error", f"{error.kind}: {error.message}"),
        ]
        if attempt.number:
            rows.append(("log", str(attempt.rank_log(error.rank))))
        launcher_logs = sorted(attempt.dir.glob("launcher-*.log"))
        if not error.traceback and launcher_logs:
            # Of a rank that could write nothing itself.
            rows.append(("launcher", ", ".join(map(str, launcher_logs[:2]))))
        if error.consequence:
            rows.append(("note", "the rank lost another one, which left no record of its own"))
    if not attempt.number:  # the session's directory is gone
        return "\n".join(["The attempt failed.", *_rows(rows)])
    rows += _saved_row(layout)
    return "\n".join([f"Attempt {attempt.number} failed.", *_rows(rows), RESUME])


def _why_no_record(attempt: AttemptLayout) -> str:
    """Tries what the ranks would have done."""
    try:
        with TemporaryFile(dir=attempt.dir) as probe:
            probe.write(bytes(_RECORD_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        problem = error.strerror or error
        return f"no rank left a record, and none can be written: {problem}: {attempt.dir}"
    return "no rank left a record: it was killed from outside, or ran out of memory"


def _traceback_row(error: ErrorRecord) -> list[tuple[str, str]]:
    """The innermost frames; the log has them all."""
    frames = [line for line in error.traceback.splitlines() if line.startswith("  ")]
    return [("from", "\n".join(frames[-_NUM_TRACEBACK_LINES:]).strip())] if frames else []


def _saved_row(layout: SessionLayout) -> list[tuple[str, str]]:
    newest = newest_checkpoint(layout)
    if newest is None:
        return [("saved", "no checkpoint yet; the next start begins anew")]
    return [("saved", str(layout.root / newest))]


def _rows(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    for label, text in rows:
        first, *rest = text.splitlines() or [""]
        yield f"  {label:<8} {first}"
        yield from (f"  {'':<8} {line}" for line in rest)
