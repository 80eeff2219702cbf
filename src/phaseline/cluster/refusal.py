"""What ranks leave for the launcher when they refuse to begin.

An attempt says in its own folder how it ended. Before there is one (the configuration was
changed, another process holds the session) only an exit code could say it, and torch's
agent turns any code but 0 into 1. So the main rank leaves code and message in a file that
the launcher names in the environment, and every rank ends 0.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from phaseline.errors import ExitCode
from phaseline.session.layout import AttemptLayout

REFUSAL_VARIABLE = "PHASELINE_REFUSAL_FILE"


@dataclass(frozen=True)
class Refusal:
    """Why nothing was begun, and the exit code that says so."""

    code: ExitCode
    message: str


def last_words(path: Path) -> AttemptLayout:
    """Where ranks leave what they cannot record in their attempt: on a full disk, say.

    Args:
        path: The file that a launcher names in the environment; it lies elsewhere.
    """
    return AttemptLayout(number=0, dir=path.with_name(f"{path.name}.unrecorded"))


def read_refusal(path: Path) -> Refusal | None:
    """Returns what the main rank left; None if it left nothing that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Refusal(ExitCode(content["code"]), str(content["message"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
