"""`phaseline verify`: reads every checkpoint of a session and says whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phaseline.checkpoint.manifest import list_headless, list_kept
from phaseline.checkpoint.manifest import verify as verify_checkpoint
from phaseline.cli.showing import show
from phaseline.errors import CheckpointError, ExitCode
from phaseline.session.committed import find_lost_lines
from phaseline.session.identity import require_session


def verify(
    directory: Annotated[Path, typer.Argument(help="The session directory.")],
) -> None:
    """Read every checkpoint of a session and compare each file with its recorded hash.

    The metrics that a checkpoint stands on are compared as well. Ends with 0 if everything is
    whole and 1 if something is not; nothing is changed.
    """
    layout = require_session(directory)
    phases = sorted(layout.phases_dir.glob("*"))
    places = [layout.phase(phase.name) for phase in phases]
    folders = [folder for place in places for folder in list_kept(place)]
    for place in places:
        folders += [*list_headless(place.checkpoints_dir), *list_headless(place.final_dir)]
    num_bad, lost_lines = 0, dict[str, None]()
    for folder in folders:
        name = folder.relative_to(layout.root)
        try:
            manifest = verify_checkpoint(folder)
        except CheckpointError as error:
            num_bad += 1
            show(f"BAD   {name}: {error}")
            continue
        lost_lines |= dict.fromkeys(find_lost_lines(layout, manifest.committed))
        size_mib = sum(record.size for record in manifest.files.values()) / 2**20
        show(
            f"whole {name}: {manifest.engine} on {manifest.world_size} rank(s), "
            f"{len(manifest.files)} files, {size_mib:.1f} MiB"
        )
    for problem in lost_lines:
        show(f"BAD   {problem}")
    show(f"{len(folders) - num_bad} of {len(folders)} checkpoints are whole")
    if num_bad or lost_lines:
        raise typer.Exit(int(ExitCode.FAILED))
