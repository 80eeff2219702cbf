"""`phaseline sync`: one complete wandb run from a session's records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phaseline.cli.showing import show
from phaseline.session.confinement import require_confined
from phaseline.session.copies import require_no_copy
from phaseline.session.layout import SessionLayout
from phaseline.session.temporary import libraries_in_own_folder


def sync(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The session's folder, as runs/quickstart.")
    ],
    offline: Annotated[
        bool,
        typer.Option(
            "--offline", help="Write wandb's files instead, for `wandb sync` on another machine."
        ),
    ] = False,
) -> None:
    """Send a session's whole run to wandb: every step once, over all attempts.

    It reads only the session's records, whatever wandb's own folders hold, and sends what the
    server lacks. So it may be cut off and run again, or run now and then while a session
    trains offline. Log in with `wandb login` or WANDB_API_KEY.
    """
    from phaseline.tracking.wandb_sync import sync_session

    layout = SessionLayout(directory)
    require_confined(layout)
    require_no_copy(layout)
    # wandb's own folders are left behind when this process is killed.
    with libraries_in_own_folder():
        sync_session(directory, mode="offline" if offline else "online", say=show)
