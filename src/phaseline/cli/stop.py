"""`phaseline stop`: asks a running session to stop, from any machine that sees its folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from phaseline.cli.session_status import AttemptStatus, describe_attempt, is_session
from phaseline.cli.showing import show
from phaseline.errors import ExitCode, UsageError
from phaseline.session.attempts import read_error, read_outcome
from phaseline.session.confinement import require_confined
from phaseline.session.copies import require_no_copy
from phaseline.session.identity import load_identity
from phaseline.session.layout import AttemptLayout, SessionLayout
from phaseline.session.lease import read_lease
from phaseline.session.starting import is_starting
from phaseline.session.stop_request import read_stop_request, request_stop

_LOOK_EVERY_S = 0.25


def stop(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The session's folder, as runs/quickstart.")
    ],
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when the attempt has ended, and say how.")
    ] = False,
) -> None:
    """Ask a running session to stop: it saves at its next step, and ends with exit code 75.

    It works from any machine that sees the folder; on a network file system it may take as
    long as that keeps an old listing, often up to a minute. Only the attempt that runs now is
    asked: starting the session again goes on as ever.

    Exit codes: 0 asked (with --wait: it ended with everything saved); 2 nothing runs there;
    with --wait 1: it ended in another way.
    """
    layout = SessionLayout(directory)
    require_confined(layout)
    require_no_copy(layout)
    _await_start(layout)
    attempt = _require_running(layout)
    number, holder = attempt.number, _holder(layout)
    is_first = request_stop(attempt)
    if not is_first:
        read_stop_request(attempt)  # one that is damaged asks for nothing
    asked = "is asked to stop" if is_first else "had been asked to stop before"
    show(f"Attempt {number} of {layout.root}{holder} {asked}.")
    if not wait:
        show(f"It saves at its next step; `phaseline status {layout.root}` shows the end.")
        return
    # Until the session is given back, so that the next start is not refused.
    while _holds(layout, attempt):
        time.sleep(_LOOK_EVERY_S)
    end = describe_attempt(attempt)
    show(f"Attempt {number} ended: {_describe_end(end)}.")
    if read_error(attempt) is not None or not _is_saved(attempt):
        raise typer.Exit(int(ExitCode.FAILED))


def _await_start(layout: SessionLayout) -> None:
    """Waits for the attempt that a launcher is about to begin: it is the one that is meant."""
    is_told = False
    while is_starting(layout) and not _runs(layout):
        if not is_told:
            show(
                f"No attempt of {layout.root} runs yet, and a launcher is at work: waiting for it."
            )
            is_told = True
        time.sleep(_LOOK_EVERY_S)


def _runs(layout: SessionLayout) -> bool:
    """Whether the newest attempt has the session and has not ended."""
    numbers = layout.attempt_numbers()
    attempt = layout.attempt(max(numbers, default=0))
    return bool(numbers) and _holds(layout, attempt) and read_outcome(attempt) is None


def _require_running(layout: SessionLayout) -> AttemptLayout:
    """The attempt that runs now.

    Raises:
        UsageError: None does.
    """
    if not is_session(layout):
        raise UsageError(
            f"{layout.root} is no session. Name a session's folder, as runs/quickstart."
        )
    numbers = layout.attempt_numbers()
    attempt = layout.attempt(max(numbers, default=0))
    if _runs(layout):
        return attempt
    identity = load_identity(layout)
    if identity is not None and identity.state == "finished":
        raise UsageError(f"The session at {layout.root} is finished; there is nothing to stop.")
    if not numbers:
        raise UsageError(f"No attempt at {layout.root} has begun yet. Ask again when one runs.")
    raise UsageError(
        f"Nothing runs in {layout.root}: attempt {attempt.number} ended "
        f"({_describe_end(describe_attempt(attempt))}), and no other has begun."
    )


def _holds(layout: SessionLayout, attempt: AttemptLayout) -> bool:
    """Whether an attempt has the session, as far as can be told from here."""
    lease = read_lease(layout)
    is_newest = attempt.number == max(layout.attempt_numbers(), default=0)
    is_held = lease is not None and lease.is_held()
    return is_held and is_newest


def _holder(layout: SessionLayout) -> str:
    lease = read_lease(layout)
    return f" ({lease.owner})" if lease is not None and lease.owner is not None else ""


def _is_saved(attempt: AttemptLayout) -> bool:
    outcome = read_outcome(attempt)
    return outcome is not None and outcome.code in (ExitCode.STOPPED, ExitCode.FINISHED)


def _describe_end(end: AttemptStatus) -> str:
    return f"{end.end}: {end.reason}" if end.reason else end.end
