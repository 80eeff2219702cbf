"""`phaseline watch`: the live display of a session that runs elsewhere."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from phaseline.cli.session_status import is_session
from phaseline.errors import UsageError
from phaseline.session.layout import SessionLayout
from phaseline.tracking.console import build_display
from phaseline.tracking.watching import Watching

_LOOK_EVERY_S = 0.5


def watch(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The session's folder, as runs/quickstart.")
    ],
    interval_s: Annotated[
        float,
        typer.Option("--interval", min=0, help="Least seconds between lines where no terminal is."),
    ] = 10.0,
) -> None:
    """Show a session's progress as it is shown where it runs, until its attempt ends.

    An attempt whose process is gone without a word counts as ended, and is said to have crashed.

    It reads the session's folder only: from any machine that sees it, for batch jobs too.
    Ctrl-C ends the watching, never the session.
    """
    layout = SessionLayout(directory)
    if not is_session(layout):
        raise UsageError(f"{directory} is no session. Name a session's folder, as runs/quickstart.")
    display = build_display("auto", sys.stdout, interval_s)
    watching = Watching(layout, display)
    try:
        is_over = False
        while not is_over:
            # Asked before looking: what was recorded before the end is shown.
            is_over = watching.is_over
            watching.look(is_gone=is_over)
            if not is_over:
                time.sleep(_LOOK_EVERY_S)
    except KeyboardInterrupt:
        pass
    finally:
        display.close()
