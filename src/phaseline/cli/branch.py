"""`phaseline branch`: makes the copy of a session a session of its own."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from phaseline.cli.showing import show
from phaseline.errors import UsageError
from phaseline.session.confinement import require_confined
from phaseline.session.copies import find_original, place_of_session
from phaseline.session.identity import load_identity, require_session, save_identity
from phaseline.session.layout import SessionLayout
from phaseline.session.lease import Lease, read_lease
from phaseline.tracking.tracker import WANDB


def branch(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The copied folder, as runs/second.")
    ],
) -> None:
    """Have a session's copied folder go on as a session of its own.

    Copy a session's folder, as `cp -r runs/first runs/second`, then run this once for the copy:
    it gets a wandb run of its own. Everything else stays, so `phaseline launch FILE --session DIR`
    goes on from where the original stood. Copied while the original runs, what was being written
    may be half there; the copy then goes on from the last checkpoint that is whole.

    Exit codes: 0 it is its own session; 2 the folder is no copy of a session that is still there.
    """
    layout = require_session(directory)
    require_confined(layout)
    identity = load_identity(layout)
    original = None if identity is None else find_original(layout, identity)
    if identity is None or original is None:
        raise UsageError(
            f"{directory} is no copy of another session that is still there: it goes on as it "
            "is, with `phaseline launch`."
        )
    lease = Lease.acquire(layout, take_over=_is_held_by_original(layout, original))
    try:
        layout.launcher_file.unlink(missing_ok=True)  # of whoever starts the original
        # The new run has been told of nothing yet, as of artifacts that the old one has.
        for told in (layout.root / WANDB).glob("told*.json"):
            told.unlink()
        wandb_id = uuid.uuid4().hex[:12]
        save_identity(layout, replace(identity, wandb_id=wandb_id, place=place_of_session(layout)))
    finally:
        lease.release()
    show(f"{directory} is a session of its own now; its wandb run will be {wandb_id}.")
    show(f"  original  {original}")


def _is_held_by_original(layout: SessionLayout, original: Path) -> bool:
    """Whether the copy's lease names the process that runs the original: it was copied with it."""
    here, there = read_lease(layout), read_lease(SessionLayout(original))
    if here is None or here.owner is None or there is None or there.owner is None:
        return False
    return here.owner.is_same_process(there.owner)
