"""`phaseline report`: a page about a session."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phaseline.session.confinement import require_confined
from phaseline.session.layout import SessionLayout


def report(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The session's folder, as runs/quickstart.")
    ],
) -> None:
    """Write a session's report.html: phases, curves, attempts and samples, in one file.

    It reads only the session's records, so it works while the session runs and after.
    """
    from phaseline.tracking.report import write_report

    require_confined(SessionLayout(directory))
    typer.echo(write_report(directory))
