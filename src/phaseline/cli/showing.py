"""Writing to a person's terminal what files, models and other people may have written."""

from __future__ import annotations

import typer

from phaseline.errors import printable


def show(text: object, *, err: bool = False) -> None:
    """Writes a text as text: what would move a terminal's cursor or colour it is spelt out."""
    typer.echo(printable(str(text)), err=err)
