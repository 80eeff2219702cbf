"""Arguments and options that several commands have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
        "writes it, or a section, as phases[0].optimizer. Repeatable.",
    ),
]

TakeOver = Annotated[
    bool,
    typer.Option("--take-over", help="Start although another process holds the session."),
]
