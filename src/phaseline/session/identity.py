"""Who a session is. Written by the lease holder only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from phaseline.errors import UsageError
from phaseline.session.files import write_json
from phaseline.session.layout import SessionLayout
from phaseline.session.stored import read_stored


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
    """

    id: str
    name: str
    created: float
    config_fingerprint: str
    wandb_id: str
    phaseline_version: str
    state: Literal["open", "finished"]
    validated: list[dict[str, Any]]


def load_identity(layout: SessionLayout) -> SessionIdentity | None:
    """Reads who the session is; None if the directory holds none yet.

    Raises:
        SessionError: The file is damaged, or of another version.
    """
    remedy = "Use the version that wrote it, or restore it from a copy."
    try:
        return read_stored(layout.session_file, SessionIdentity, remedy=remedy)
    except FileNotFoundError:
        return None


def save_identity(layout: SessionLayout, identity: SessionIdentity) -> None:
    """Puts the identity in place of the one before."""
    write_json(layout.session_file, asdict(identity))


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
