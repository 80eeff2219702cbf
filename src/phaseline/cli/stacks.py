"""`phaseline stacks`: where every thread of every rank is, as when a run seems to hang."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from phaseline.cli.showing import show
from phaseline.errors import UsageError
from phaseline.session.attempts import read_outcome
from phaseline.session.confinement import require_confined
from phaseline.session.layout import AttemptLayout, SessionLayout
from phaseline.session.stack_request import LOOK_EVERY_S, request_stacks

_LOOK_S = 0.1


def stacks(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The session's folder, as runs/quickstart.")
    ],
    wait_s: Annotated[
        float,
        typer.Option(
            "--wait", min=0, max=1_000_000, help="Seconds to wait for the ranks' answers."
        ),
    ] = 5 * LOOK_EVERY_S,
) -> None:
    """Make all ranks of a running session write the stacks of all their threads.

    It works from any machine that sees the folder, and harms nothing: training goes on. The
    stacks are added to attempts/*/stacks/rank-*.txt. SIGQUIT to a rank does the same for that
    rank, and Ctrl-Backslash at `phaseline launch` for all.
    """
    attempt = _running_attempt(directory)
    sizes = {path: path.stat().st_size for path in _files(attempt)}
    request_stacks(attempt)
    deadline = time.monotonic() + wait_s
    waiting = dict(sizes)
    while waiting and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        for path in [path for path, size in waiting.items() if path.stat().st_size > size]:
            del waiting[path]
            show(path)
    if waiting:
        names = ", ".join(path.stem for path in waiting)
        show(f"no answer yet from {names}: it is gone, or its machine is slow to see files")
        raise typer.Exit(1)


def _files(attempt: AttemptLayout) -> list[Path]:
    return sorted(attempt.stacks_dir.glob("rank-*.txt"))


def _running_attempt(directory: Path) -> AttemptLayout:
    layout = SessionLayout(directory)
    require_confined(layout)
    attempt = layout.attempt(max(layout.attempt_numbers(), default=0))
    if not _files(attempt) or read_outcome(attempt) is not None:
        raise UsageError(
            f"Nothing runs in {directory}. Name the folder of a session that runs, as "
            "runs/quickstart."
        )
    return attempt
