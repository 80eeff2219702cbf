"""Records of a session that are gone: then nothing may be begun anew beside its checkpoints."""

from __future__ import annotations

from pathlib import Path

from phaseline.checkpoint.manifest import Manifest, list_headless, list_kept, parse_name
from phaseline.errors import CheckpointError, ExitCode, SessionError
from phaseline.session.identity import load_identity
from phaseline.session.layout import SessionLayout


class LostRecordsError(SessionError):
    """Checkpoints lie where nothing says any more whose they are. No retry mends it."""

    exit_code = ExitCode.USAGE


def require_records(layout: SessionLayout) -> None:
    """Refuses a session whose checkpoints are there, but not what says that they are its own.

    Otherwise the session would begin at step 0, or give a number a second time that fences
    what an attempt writes from what others wrote.

    Raises:
        LostRecordsError: Naming what is gone.
    """
    identity = load_identity(layout)
    numbers = layout.attempt_numbers()
    if identity is None:
        _require_nothing_saved(layout, has_attempts=bool(numbers))
        return
    for phase in sorted(layout.phases_dir.glob("*")):
        for folder in list_kept(layout.phase(phase.name)):
            named = parse_name(folder.name)
            if named and named[1] not in numbers and _is_of(folder, identity.id):
                raise LostRecordsError(
                    f"{layout.attempt(named[1]).dir} is missing, and {folder} was written by that "
                    "attempt. What it trusted and recorded is there and nowhere else. Put the "
                    "folder back from a copy, or begin another session (--session DIR) with "
                    f"inherit.weights: {folder}."
                )


def _require_nothing_saved(layout: SessionLayout, *, has_attempts: bool) -> None:
    """Refuses a folder with checkpoints that no session.json claims, whatever state they are in.

    A new session would publish its own beside them, or under their names.
    """
    missing = str(layout.session_file)
    if not has_attempts:
        missing += f" and {layout.attempts_dir}"
    for phase in sorted(layout.phases_dir.glob("*")):
        place = layout.phase(phase.name)
        saved = [*list_headless(place.checkpoints_dir), *list_kept(place)]
        if saved:
            raise LostRecordsError(
                f"{missing} {'is' if has_attempts else 'are'} missing, and {saved[-1]} belongs to a "
                "session. Put what is missing back from a copy, or train in another folder "
                "(--session DIR)."
            )


def _is_of(folder: Path, session_id: str) -> bool:
    """Whether a checkpoint says that it belongs to a session."""
    try:
        return Manifest.load(folder).session == session_id
    except CheckpointError:
        return False
