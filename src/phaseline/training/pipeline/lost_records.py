"""Records of a session that are gone: then nothing may be begun anew beside its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from phaseline.checkpoint.manifest import Manifest, list_headless, list_kept, parse_name
from phaseline.errors import CheckpointError
from phaseline.session.identity import load_identity
from phaseline.session.layout import SessionLayout
from phaseline.session.stored import StoredFileError


def require_records(layout: SessionLayout) -> None:
    """Refuses a session whose checkpoints are there, but not what says that they are its own.

    Otherwise the session would begin at step 0, or give a number a second time that fences
    what an attempt writes from what others wrote.

    Raises:
        StoredFileError: Naming what is gone.
    """
    identity = load_identity(layout)
    numbers = layout.attempt_numbers()
    if identity is None:
        _require_nothing_saved(layout, has_attempts=bool(numbers))
        return
    _require_identity_of_checkpoints(layout, identity.id, numbers)
    for phase in sorted(layout.phases_dir.glob("*")):
        for folder in list_kept(layout.phase(phase.name)):
            named = parse_name(folder.name)
            missing = None if named is None else _missing_of(layout, named[1], numbers)
            if missing is not None and _is_of(folder, identity.id):
                raise StoredFileError(
                    f"{missing} is missing, and {folder} was written by that attempt. What it "
                    "trusted and recorded is there and nowhere else. Put it back from a copy, or "
                    "begin another session (--session DIR) with "
                    f"inherit.weights: {folder}."
                )


def _require_identity_of_checkpoints(
    layout: SessionLayout, session_id: str, numbers: Sequence[int]
) -> None:
    """Refuses a session all of whose checkpoints, by its own attempts, say that they are another's.

    One character of the identity that a disk changed would have everything trained again.
    """
    others: dict[str, Path] = {}
    for phase in sorted(layout.phases_dir.glob("*")):
        for folder in list_kept(layout.phase(phase.name)):
            named, found = parse_name(folder.name), _session_of(folder)
            if found == session_id:
                return
            if found is not None and named is not None and named[1] in numbers:
                others[found] = folder
    if others:
        found, folder = next(iter(others.items()))
        raise StoredFileError(
            f"{layout.session_file} says that the session is {session_id!r}, and {folder}, which "
            f"one of its attempts wrote, that it is {found!r}. Restore the file from a copy; or "
            f"begin another session (--session DIR) with inherit.weights: {folder}."
        )


def _missing_of(layout: SessionLayout, writer: int, numbers: Sequence[int]) -> Path | None:
    """What is gone of an attempt that wrote a checkpoint; None if the next one may build on it.

    An attempt writes down what it stands on before it writes a checkpoint. Of the latest that
    has done so what is needed; of those before it, it says itself.
    """
    attempt = layout.attempt(writer)
    if writer not in numbers:
        return attempt.dir
    said = [number for number in numbers if layout.attempt(number).adopted_file.exists()]
    is_known = writer <= max(said, default=0)
    return None if is_known else attempt.adopted_file


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
            raise StoredFileError(
                f"{missing} {'is' if has_attempts else 'are'} missing, and {saved[-1]} belongs to a "
                "session. Put what is missing back from a copy, or train in another folder "
                "(--session DIR)."
            )


def _is_of(folder: Path, session_id: str) -> bool:
    """Whether a checkpoint says that it belongs to a session."""
    return _session_of(folder) == session_id


def _session_of(folder: Path) -> str | None:
    """The session that a checkpoint says it belongs to; None if it cannot be read."""
    try:
        return Manifest.load(folder).session
    except CheckpointError:
        return None
