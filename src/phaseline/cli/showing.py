"""Writing to a person's terminal what files, models and other people may have written."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import typer

from phaseline.errors import printable


def show(text: object, *, err: bool = False) -> None:
    """Writes a text as text: what would move a terminal's cursor or colour it is spelt out.

    A reader that is gone, as after `| head`, ends nothing: what comes then is written to nowhere.
    """
    try:
        typer.echo(printable(str(text)), err=err)
    except OSError:
        _divert(2 if err else 1)


def warn(text: str) -> None:
    """Shows a text beside what a command writes to its standard output."""
    show(text, err=True)


def _divert(descriptor: int) -> None:
    """Leads a descriptor to nowhere, for what Python still holds for it at its end, too."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
    with suppress(OSError):
        (sys.stdout if descriptor == 1 else sys.stderr).flush()
