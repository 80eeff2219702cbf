"""`phaseline status` and `phaseline metrics`: looking at a session, running or not. No torch."""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from phaseline.checkpoint.trust import newest_committed
from phaseline.cli.job_status import find_waiting, gather_jobs
from phaseline.cli.session_status import (
    AttemptStatus,
    PhaseStatus,
    SessionStatus,
    find_sessions,
    gather_status,
    is_session,
)
from phaseline.cli.showing import show
from phaseline.errors import ExitCode, PhaselineError, UsageError, printable
from phaseline.session.committed import find_lost_lines
from phaseline.session.jobs import JobStart
from phaseline.session.layout import SessionLayout
from phaseline.session.metrics_view import read_metrics
from phaseline.session.records import encode
from phaseline.session.starting import is_starting
from phaseline.tracking.formatting import format_quantity, format_seconds

_COUNTERS = ("seq", "kind", "phase", "phase_step", "global_step", "tokens")


class MetricsFormat(str, Enum):
    """How records are written."""

    JSONL = "jsonl"
    CSV = "csv"


def status(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A session's folder, or one that holds sessions."),
    ] = Path("runs"),
) -> None:
    """Show how a session stands: phases, attempts and how they ended, checkpoints, jobs, holder.

    For a folder that holds several sessions: one line each. On a machine that has SLURM's
    commands it also says how the session's job stands, and how many more jobs it needs.
    """
    layouts = find_sessions(directory)
    waiting = find_waiting(directory)
    if not layouts and not waiting and is_starting(SessionLayout(directory)):
        show(f"{directory} is being started; nothing is recorded yet")
        return
    if not layouts and not waiting:
        raise UsageError(
            f"{directory} holds no session. Name a session's folder, as runs/quickstart, or the "
            "folder above; `phaseline launch CONFIG` starts one."
        )
    if len(layouts) == 1 and not waiting:
        _show_session(gather_status(layouts[0]))
        return
    rows, faults = [], []
    rows_of = [(layout, _begun_row) for layout in layouts]
    rows_of += [(layout, _waiting_row) for layout in waiting]
    for layout, row_of in rows_of:
        try:
            rows.append(row_of(layout))
        except (PhaselineError, OSError) as error:
            # What is wrong with one hides none of the others.
            rows.append((layout.root.name, "unreadable", *["-"] * 7))
            faults.append(f"{layout.root.name}: {error}")
    _show_table(
        ("folder", "state", "phase", "step", "done", "loss", "saved", "attempts", "slurm"), rows
    )
    for fault in faults:
        show(f"\n{fault}")


def metrics(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The session's folder, as runs/quickstart.")
    ],
    format: Annotated[  # noqa: A002 - it names the option
        MetricsFormat, typer.Option(help="jsonl: whole records; csv: one row each, no samples.")
    ] = MetricsFormat.JSONL,
    phase: Annotated[str | None, typer.Option(help="Only this phase. Default: all.")] = None,
) -> None:
    """Write the session's metrics to standard output: every step once, in order.

    What an interrupted attempt recorded and a later one replayed is left out. Lines that hold no
    record are passed over, and counted on standard error. Ends with 1 if lines that a checkpoint
    stands on are gone or changed, after what is there was written.
    """
    layout = SessionLayout(directory)
    if not is_session(layout):
        raise UsageError(f"{directory} is no session. Name a session's folder, as runs/quickstart.")
    if phase is not None:
        _require_phase(layout, phase)
    passed_over: dict[str, None] = {}
    read = partial(read_metrics, layout, phase, say=lambda text: passed_over.update({text: None}))
    if format is MetricsFormat.JSONL:
        for record in read():
            sys.stdout.write(encode(record).decode("utf-8", "replace"))
    else:
        _write_csv(lambda: map(_csv_row, read()))
    for text in passed_over:
        show(text, err=True)
    lost_lines = list(find_lost_lines(layout, newest_committed(layout)))
    for problem in lost_lines:
        show(problem, err=True)
    if lost_lines:
        raise typer.Exit(int(ExitCode.FAILED))


def _require_phase(layout: SessionLayout, phase: str) -> None:
    names = [one.name for one in gather_status(layout).phases]
    if phase not in names:
        raise UsageError(
            f"--phase is {phase!r}, and {layout.root} has no such phase. Use {' or '.join(names)}."
        )


def _csv_row(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: record.get(name) for name in _COUNTERS},
        **record["metrics"],
        **record["timing"],
    }


def _write_csv(rows: Callable[[], Iterable[dict[str, Any]]]) -> None:
    """Columns are what any row has. So all are read twice, for there may be millions to keep."""
    columns = dict.fromkeys(_COUNTERS)
    for row in rows():
        columns |= dict.fromkeys(row)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    # Names of metrics, as whoever wrote the records chose them.
    writer.writerow(map(printable, columns))
    # A session that runs may have new ones by now.
    writer.writerows([row.get(name, "") for name in columns] for row in rows())


def _show_session(session: SessionStatus) -> None:
    show(f"{session.name}: {session.state}")
    show(f"  folder  {session.layout.root}")
    if session.newest_checkpoint is not None:
        saved = session.newest_checkpoint.relative_to(session.layout.root)
        show(f"  saved   {saved}, {_age(session.newest_checkpoint)} ago")
    for label, text in (("slurm", session.jobs.told), ("left", session.jobs.left)):
        if text:
            show(f"  {label:<6}  {text}")
    show(f"  holder  {_describe_holder(session)}\n")
    headings = ("phase", "state", "step", "done", "loss", "tokens", "saved")
    _show_table(headings, map(_phase_row, session.phases))
    show("")
    _show_table(("attempt", "began", "ended", "end", "reason"), map(_attempt_row, session.attempts))
    if session.jobs.starts:
        show("")
        _show_table(
            ("job", "start", "nodes", "began", "ended", "code", "cause"),
            map(_start_row, session.jobs.starts),
        )


def _describe_holder(session: SessionStatus) -> str:
    lease = session.lease
    if lease is None or lease.owner is None:
        return "nobody"
    silence = f"last sign of life {format_seconds(lease.silent_s())} ago"
    if lease.is_held():
        return f"{lease.owner}, {silence}"
    return f"nobody; {lease.owner} is gone without giving the session back, {silence}"


def _begun_row(layout: SessionLayout) -> tuple[str, ...]:
    session = gather_status(layout)
    phase, saved = session.current_phase, session.newest_checkpoint
    return (
        session.layout.root.name,
        session.state,
        "-" if phase is None else phase.name,
        *(("-", "-", "-") if phase is None else (_step(phase), _done(phase), _loss(phase))),
        "-" if saved is None else f"{_age(saved)} ago",
        str(len(session.attempts)),
        session.jobs.slurm or "-",
    )


def _waiting_row(layout: SessionLayout) -> tuple[str, ...]:
    return (layout.root.name, "submitted", *["-"] * 5, "0", gather_jobs(layout).told or "-")


def _start_row(start: JobStart) -> tuple[str, ...]:
    return (
        start.job_id,
        str(start.restart + 1),
        start.nodes,
        _moment(start.began),
        _moment(start.ended),
        "-" if start.code is None else str(start.code),
        start.cause or "-",
    )


def _phase_row(phase: PhaseStatus) -> tuple[str, ...]:
    saved = phase.checkpoint
    return (
        phase.name,
        phase.state,
        _step(phase),
        _done(phase),
        _loss(phase),
        format_quantity(phase.tokens),
        "-" if saved is None else f"{saved.name}, {_age(saved)} ago",
    )


def _attempt_row(attempt: AttemptStatus) -> tuple[str, ...]:
    return (
        str(attempt.number),
        _moment(attempt.began),
        _moment(attempt.ended),
        attempt.end,
        attempt.reason,
    )


def _step(phase: PhaseStatus) -> str:
    return f"{phase.step} of {phase.length}"


def _done(phase: PhaseStatus) -> str:
    return "-" if phase.done_frac is None else f"{phase.done_frac:.0%}"


def _loss(phase: PhaseStatus) -> str:
    return "-" if phase.loss is None or math.isnan(phase.loss) else f"{phase.loss:.4f}"


def _age(path: Path) -> str:
    return format_seconds(time.time() - path.stat().st_mtime)


def _moment(seconds: float | None) -> str:
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _show_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their widest word; the same on a terminal and in a file."""
    lines = [tuple(headings), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = [word.ljust(width) for word, width in zip(line, widths, strict=True)]
        show("  ".join(["", *padded]).rstrip())
