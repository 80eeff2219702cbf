"""Arguments and options that several commands have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phaseline.errors import UsageError

ConfigFile = Annotated[Path, typer.Argument(help="The session file, as configs/quickstart.yaml.")]

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        "--override",
        metavar="KEY=VALUE",
        help="Change one setting, as phases[pretrain].optimizer.lr=1e-3. Repeatable.",
    ),
]

SessionDir = Annotated[
    Path | None,
    typer.Option(help="The session directory. Default: <session.root>/<session.name>."),
]

AcceptChanges = Annotated[
    list[str] | None,
    typer.Option(
        "--accept-change",
        metavar="KEY",
        help="Go on although this setting changed and the numbers will too: a path as the refusal "
        "writes it, or a section, as phases[0].optimizer; a path with =VALUE accepts that value alone. "
        "Repeatable.",
    ),
]

TakeOver = Annotated[
    bool,
    typer.Option("--take-over", help="Start although another process holds the session."),
]

PhaseName = Annotated[
    str | None, typer.Option("--phase", help="The phase. Default: the last one that has begun.")
]

PhaseStep = Annotated[
    int | None,
    typer.Option("--step", min=0, help="Its checkpoint at this step. Default: the last."),
]

BestOfPhase = Annotated[
    bool, typer.Option("--best", help="Its best checkpoint, by checkpoint.keep_best.")
]


TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Run code that the session names, as a model.factory of your own. Without it only "
        "what is installed is run.",
    ),
]


def require_one_choice(step: int | None, *, best: bool) -> None:
    """Raises UsageError if a step and the best are both asked for."""
    if best and step is not None:
        raise UsageError("--best and --step both say which checkpoint. Leave one of them out.")
