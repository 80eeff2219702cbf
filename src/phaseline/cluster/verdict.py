"""How a started session ended: the exit code, and what a person should know about it.

The ranks' own exit codes do not say: torch's agent turns any code but 0 of any rank into
1. So the newest attempt's `outcome.json` decides; a batch script asks for it with
`python -m phaseline.cluster.verdict SESSION --since ATTEMPT`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from phaseline.cluster.refusal import Refusal
from phaseline.errors import ExitCode, PhaselineError
from phaseline.session.attempts import ErrorRecord, read_error, read_outcome
from phaseline.session.layout import AttemptLayout, SessionLayout

_RESUME = "Run the same command to resume."


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
) -> Verdict:
    """Says how what was started after attempt `since` ended.

    Args:
        layout: The session's directory.
        since: The newest attempt before the start; older outcomes say nothing about it.
        stop_requested: Whether the ranks were asked to stop.
        left_at_once: Whether they were killed because they were asked twice.
        refusal: What the main rank left because it would not begin an attempt.
    """
    if refusal is not None:
        # An attempt that came since is another start's.
        return Verdict(refusal.code, f"phaseline: {refusal.message}")
    number = newest_attempt(layout)
    if number <= since:
        return _never_begun(layout, stop_requested=stop_requested)
    attempt = layout.attempt(number)
    outcome = read_outcome(attempt)
    if outcome is None and left_at_once:
        lines = ["Left at once; what came after the last save is lost."]
        return Verdict(ExitCode.FAILED, "\n".join([*lines, *_rows(_saved_row(layout)), _RESUME]))
    if outcome is None:
        return Verdict(ExitCode.FAILED, _describe_failure(layout, attempt))
    if outcome.code == ExitCode.FINISHED:
        return Verdict(outcome.code, describe_finished(layout))
    head = f"{_OUTCOMES.get(outcome.code, 'Ended')}: {outcome.reason}"
    lines = [head, *_rows(_saved_row(layout))]
    if outcome.code == ExitCode.STOPPED:
        lines.append(_RESUME)
    return Verdict(outcome.code, "\n".join(lines))


_OUTCOMES = {
    ExitCode.FAILED: "Failed",
    ExitCode.USAGE: "Refused",
    ExitCode.GATE: "Stopped by a gate",
    ExitCode.NO_PROGRESS: "Given up without progress",
    ExitCode.STOPPED: "Stopped on request, everything is saved",
}


def describe_finished(layout: SessionLayout) -> str:
    """Says that the session is finished and where what it made lies."""
    rows = [("session", str(layout.root))]
    if layout.report_file.exists():
        rows.append(("report", str(layout.report_file)))
    if layout.exports_dir.is_dir():
        rows += [("export", str(path)) for path in sorted(layout.exports_dir.iterdir())]
    return "\n".join(["The session is finished.", *_rows(rows)])


def _never_begun(layout: SessionLayout, *, stop_requested: bool) -> Verdict:
    if stop_requested:
        return Verdict(
            ExitCode.STOPPED, f"Stopped before anything was begun in {layout.root}. {_RESUME}"
        )
    return Verdict(
        ExitCode.FAILED,
        f"The ranks ended before they began an attempt in {layout.root}; the reason is above.",
    )


def _describe_failure(layout: SessionLayout, attempt: AttemptLayout) -> str:
    error = read_error(attempt)
    if error is None:
        rows = [
            ("error", "no rank left a record: it was killed from outside, or ran out of memory"),
            ("logs", str(attempt.dir)),
        ]
    else:
        rows = [
            ("where", _place(error)),
            ("error", f"{error.kind}: {error.message}"),
            ("log", str(attempt.rank_log(error.rank))),
        ]
        if error.consequence:
            rows.append(("note", "the rank lost another one, which left no record of its own"))
    rows += _saved_row(layout)
    return "\n".join([f"Attempt {attempt.number} failed.", *_rows(rows), _RESUME])


def _place(error: ErrorRecord) -> str:
    place = f"rank {error.rank} on {error.host}"
    if error.phase is not None:
        place += f", phase {error.phase}"
    if error.step is not None:
        place += f", step {error.step}"
    return place


def _saved_row(layout: SessionLayout) -> list[tuple[str, str]]:
    # Nothing that is being written or was put aside has such a name.
    manifests = list(layout.root.glob("phases/*/run-*/checkpoints/step-*/manifest.json"))
    if not manifests:
        return [("saved", "no checkpoint yet; the next start begins anew")]
    newest = max(manifests, key=lambda path: (path.stat().st_mtime_ns, path.parent.name))
    return [("saved", str(newest.parent))]


def _rows(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    for label, text in rows:
        first, *rest = text.splitlines() or [""]
        yield f"  {label:<8} {first}"
        yield from (f"  {'':<8} {line}" for line in rest)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the verdict on a session and returns its exit code."""
    parser = argparse.ArgumentParser(prog="phaseline.cluster.verdict", description=main.__doc__)
    parser.add_argument("session", type=Path, help="the session directory")
    parser.add_argument(
        "--since", type=int, default=0, help="the newest attempt before the start (0: none)"
    )
    parser.add_argument(
        "--newest", action="store_true", help="print the newest attempt's number instead"
    )
    parser.add_argument(
        "--stop-requested", action="store_true", help="the ranks were asked to stop"
    )
    options = parser.parse_args(arguments)
    layout = SessionLayout(options.session)
    try:
        if options.newest:
            sys.stdout.write(f"{newest_attempt(layout)}\n")
            return 0
        verdict = judge(layout, since=options.since, stop_requested=options.stop_requested)
    except PhaselineError as error:
        sys.stderr.write(f"phaseline: {error}\n")
        return int(error.exit_code)
    sys.stderr.write(f"{verdict.message}\n")
    return int(verdict.code)


if __name__ == "__main__":
    sys.exit(main())
