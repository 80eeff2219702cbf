"""Reading a session's file for a session that may have begun under an older version."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from phaseline.config.cross_checks import PhaseRule
from phaseline.config.loading import LoadedConfig, load_config
from phaseline.config.upgrades import FORMAT
from phaseline.errors import SessionError
from phaseline.session.identity import load_identity
from phaseline.session.inputs import session_places
from phaseline.session.layout import SessionLayout


def load_session_file(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    session_dir: Path | None = None,
    rules: Sequence[PhaseRule] = (),
) -> LoadedConfig:
    """As `config.loading.load_config`, with the defaults that the session began with.

    Paths lead where the session finds them.

    Args:
        path: The YAML file.
        overrides: Each `path=value`.
        session_dir: The session directory; None: as the file says.
        rules: What phases are held against besides.

    Raises:
        ConfigurationError: The file cannot be used; every fault that was found.
    """
    load = partial(
        load_config, path, overrides, session_dir=session_dir, rules=rules, places=session_places
    )
    loaded = load()
    began_with = _first_format(SessionLayout(loaded.session_dir))
    return loaded if began_with == FORMAT else load(session_format=began_with)


def _first_format(layout: SessionLayout) -> int:
    """The format that the directory's session began with; this version's if there is none."""
    try:
        identity = load_identity(layout)
    except (OSError, SessionError):
        return FORMAT  # whoever opens the session says what is wrong with it
    return FORMAT if identity is None else identity.first_format
