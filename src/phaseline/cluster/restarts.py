"""Starting a session again on a machine without SLURM, as often as somebody allows."""

from __future__ import annotations

import time
from collections.abc import Callable

from phaseline.cluster.launch_command import LaunchCommand
from phaseline.cluster.launcher import Launch, launch
from phaseline.cluster.progress import EndedStart, newest_checkpoint, why_give_up
from phaseline.cluster.verdict import newest_attempt
from phaseline.errors import ExitCode
from phaseline.session.layout import SessionLayout

_PAUSE_S = 2.0
"""Before another start: what ended the last one may need a moment to pass."""


def launch_again(
    command: LaunchCommand,
    layout: SessionLayout,
    *,
    say: Callable[[str], None],
    flash: Callable[[str], None] | None = None,
    max_restarts: int,
    max_without_progress: int,
) -> ExitCode:
    """Runs the ranks, and runs them again while they fail by themselves.

    A stop on request, a refusal and a Ctrl-C end it. Every start is the launcher's own, with
    new processes and a new port; torch's agent, which could restart ranks too, would give
    them a store that still holds what the dead ones said.

    Args:
        command: What starts the ranks.
        layout: The directory of the session that they run.
        say: Shows a text to a person.
        flash: Shows a line while the ranks draw on the same terminal; None: as `say`.
        max_restarts: Starts after the first, at most.
        max_without_progress: So many starts in a row without a new checkpoint are enough.

    Returns:
        The exit code of the last start.
    """
    starts: list[EndedStart] = []
    while True:
        since, checkpoint = newest_attempt(layout), newest_checkpoint(layout)
        ended: Launch = launch(command, layout, say=say, flash=flash)
        starts.append(EndedStart(f"start {len(starts) + 1}", since, checkpoint, ""))
        if ended.code is not ExitCode.FAILED or ended.was_interrupted or not max_restarts:
            return ended.code
        reason = why_give_up(layout, starts, limit=max_without_progress)
        if reason:
            say(reason)
            return ExitCode.NO_PROGRESS
        if len(starts) > max_restarts:
            say(f"Started {len(starts)} times, as --max-restarts {max_restarts} allows.")
            return ended.code
        say(f"Starting again: restart {len(starts)} of at most {max_restarts}.")
        time.sleep(_PAUSE_S)
