"""`phaseline watch`: the live display of a session that runs elsewhere."""

from __future__ import annotations

import select
import sys
import time
from pathlib import Path
from typing import Annotated, TextIO

import typer

from phaseline.cli.session_status import is_session
from phaseline.errors import UsageError
from phaseline.session.layout import SessionLayout
from phaseline.session.starting import is_starting
from phaseline.tracking.console import Display
from phaseline.tracking.display_building import build_display
from phaseline.tracking.watching import Watching, is_between_attempts

_LOOK_EVERY_S = 0.5


def watch(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The session's folder, as runs/quickstart.")
    ],
    interval_s: Annotated[
        float,
        typer.Option(
            "--interval",
            min=0,
            max=1_000_000,
            help="Least seconds between lines where no terminal is.",
        ),
    ] = 10.0,
) -> None:
    """Show a session's progress as it is shown where it runs, until its attempt ends.

    An attempt whose process is gone without a word counts as ended, and is said to have crashed.

    While `phaseline launch` starts the session's ranks, it waits for their attempt.

    It reads the session's folder only: from any machine that sees it, for batch jobs too.
    Ctrl-C ends the watching, never the session; so does the end of a pipe's reader.
    """
    layout = SessionLayout(directory)
    display = build_display("auto", sys.stdout, interval_s)
    try:
        _await_start(layout, display)
        _require_session(layout)
        watching = Watching(layout, display)
        is_over = False
        while not is_over and not _is_unread(sys.stdout):
            # Asked before looking: what was recorded before the end is shown.
            is_over = watching.is_over
            watching.look(is_gone=is_over)
            if not is_over:
                time.sleep(_LOOK_EVERY_S)
    except KeyboardInterrupt:
        pass
    finally:
        display.close()


def _await_start(layout: SessionLayout, display: Display) -> None:
    """Waits for the attempt that a launcher is about to begin; the one before is over."""
    is_told = False
    before = max(layout.attempt_numbers(), default=0)
    while is_starting(layout) and is_between_attempts(layout) and not _is_unread(sys.stdout):
        if not is_told:
            display.note(f"waiting for attempt {before + 1}, which is being started")
            is_told = True
        time.sleep(_LOOK_EVERY_S)


def _is_unread(stream: TextIO) -> bool:
    """Whether the reader of a pipe is gone, as after `| head`: then nobody watches."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # of errors it tells unasked
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):
        return False


def _require_session(layout: SessionLayout) -> None:
    if not is_session(layout):
        raise UsageError(
            f"{layout.root} is no session. Name a session's folder, as runs/quickstart."
        )
