"""What a session keeps of what torch's agent said, once the ranks of a node have ended."""

from __future__ import annotations

import time
from contextlib import suppress

from phaseline.cluster.agent_output import AgentOutput, Death
from phaseline.errors import PhaselineError
from phaseline.session.attempts import (
    ErrorRecord,
    last_place,
    read_error,
    read_outcome,
    write_error,
)
from phaseline.session.files import write_text
from phaseline.session.layout import AttemptLayout, SessionLayout


def keep_agent_output(
    output: AgentOutput,
    code: int,
    layout: SessionLayout,
    *,
    since: int,
    host: str,
    node_idx: int = 0,
    first_rank: int = 0,
) -> None:
    """Puts on record what died without leaving a word, and the agent's own words in a log.

    What ranks recorded themselves stays as it is.

    Args:
        output: What the agent of a node said.
        code: Its exit code; -N: signal N ended it.
        layout: The session's directory.
        since: The newest attempt before the start.
        host: The node's name.
        node_idx: The node's number.
        first_rank: The first rank on this node.
    """
    numbers = [number for number in layout.attempt_numbers() if number > since]
    if not numbers:
        return
    attempt = layout.attempt(numbers[-1])
    if output.text:
        with suppress(OSError):
            write_text(attempt.launcher_log(node_idx), output.text)
    death = output.first_death if code else None
    if death is None and code < 0:
        death = Death.of_launcher(first_rank, -code)
    if death is not None and (death.is_killed or _is_unexplained(attempt, death)):
        _record(death, attempt, host)


def record_left_at_once(layout: SessionLayout, *, since: int, host: str) -> None:
    """Puts on record that a second Ctrl-C has ended the ranks, which left no word.

    Args:
        layout: The session's directory.
        since: The newest attempt before the start.
        host: This machine's name.
    """
    numbers = [number for number in layout.attempt_numbers() if number > since]
    if numbers and read_outcome(layout.attempt(numbers[-1])) is None:
        _record(Death(0, "left at once on a second Ctrl-C"), layout.attempt(numbers[-1]), host)


def _is_unexplained(attempt: AttemptLayout, death: Death) -> bool:
    """Whether a rank that ended by itself left no word of its own, but perhaps others of it."""
    error = read_error(attempt)
    if error is None:
        return read_outcome(attempt) is None
    return error.consequence and error.rank != death.rank


def _record(death: Death, attempt: AttemptLayout, host: str) -> None:
    phase, step = last_place(attempt)
    with suppress(OSError, PhaselineError):
        write_error(
            attempt,
            ErrorRecord(
                rank=death.rank,
                host=host,
                phase=phase,
                step=step,
                kind="Killed" if death.is_killed else "Ended",
                message=death.message,
                traceback="",
                consequence=False,
                time=time.time(),
            ),
        )
