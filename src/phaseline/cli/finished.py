"""Whether a session has anything left to do, before anything is started for it."""

from __future__ import annotations

from phaseline.config.changes import compare
from phaseline.config.loading import LoadedConfig
from phaseline.session.identity import load_identity
from phaseline.session.layout import SessionLayout
from phaseline.session.stored_config import load_stored_config


def is_finished(loaded: LoadedConfig) -> bool:
    """Whether there is nothing left to do for this configuration."""
    layout = SessionLayout(loaded.session_dir)
    identity = load_identity(layout)
    if identity is None or identity.state != "finished":
        return False
    done = load_stored_config(layout)
    wanted = loaded.config
    if len(wanted.phases) != len(done.phases):
        return False
    if not all((layout.exports_dir / name).is_dir() for name in wanted.export.phases):
        return False
    changes = compare(done, wanted, {phase.name: True for phase in done.phases})
    return all(change.is_harmless for change in changes)
