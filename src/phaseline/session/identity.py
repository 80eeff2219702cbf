"""Who a session is. Written by the lease holder only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from phaseline.config.upgrades import FORMAT, require_readable
from phaseline.errors import UsageError
from phaseline.session.files import write_json
from phaseline.session.layout import SessionLayout
from phaseline.session.stored import Count, UnixTime, check, parse_object, read_file

_REMEDY = "Use the version that wrote it, or restore it from a copy."


@dataclass(frozen=True)
class SessionIdentity:
    """Who a session is, and how far it is decided.

    Attributes:
        id: Hexadecimal, unique.
        name: The configured name.
        created: Unix time, seconds.
        config_fingerprint: Of the configuration that it runs with now.
        wandb_id: Of the one wandb run that it feeds.
        phaseline_version: The version that created it.
        state: finished: there is nothing left to do.
        validated: Phases that were tried, as {"phase", "key", "engine"}: digests of what the
            trial and its checkpoint depend on.
        place: The directory that it was started in last, by which a copy is noticed.
        first_format: The session format that it began with, whose defaults it keeps; see
            `config/upgrades.py`.
    """

    id: str
    name: str
    created: UnixTime
    config_fingerprint: str
    wandb_id: str
    phaseline_version: str
    state: Literal["open", "finished"]
    validated: list[dict[str, Any]]
    place: str
    first_format: Count = FORMAT


def load_identity(layout: SessionLayout) -> SessionIdentity | None:
    """Reads who the session is; None if the directory holds none yet.

    Raises:
        SessionError: The file is damaged, or of a format that this version does not read.
    """
    path = layout.session_file
    try:
        data = read_file(path, remedy=_REMEDY)
    except FileNotFoundError:
        return None
    require_readable(parse_object(data, path, remedy=_REMEDY).get("format"), path)
    return check(data, SessionIdentity, path, remedy=_REMEDY)


def save_identity(layout: SessionLayout, identity: SessionIdentity) -> None:
    """Puts the identity in place of the one before."""
    write_json(layout.session_file, {**asdict(identity), "format": FORMAT})


def require_session(directory: Path) -> SessionLayout:
    """The layout of a session directory that somebody names.

    Raises:
        UsageError: It is none.
    """
    layout = SessionLayout(directory)
    if not layout.session_file.is_file():
        raise UsageError(
            f"{directory} is no session directory: it has no {layout.session_file.name}. "
            "Name the folder that `phaseline launch` made, as runs/quickstart."
        )
    return layout
