"""Which code a command runs that is given a session's directory and no file of the user's own."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from phaseline.config.plugins import code_named_by
from phaseline.session.inputs import places_of
from phaseline.session.layout import SessionLayout
from phaseline.session.stored import StoredFileError, read_stored


@dataclass(frozen=True)
class _StartedIn:
    """What of an attempt's `environment.json` is asked for here."""

    started_in: str


def code_of_session(directory: Path, *, is_trusted: bool) -> AbstractContextManager[None]:
    """While it lasts, code that the session names is run only if the user trusts it.

    It is found in the working folder, in the one that the session was started in last, and in
    the project that was moved or copied with the session in it.
    """
    layout = SessionLayout(directory)
    folders = [*_start_folders(layout), *places_of(layout).folders] if is_trusted else []
    return code_named_by(layout.config_file, is_trusted=is_trusted, folders=folders)


def _start_folders(layout: SessionLayout) -> list[Path]:
    for number in reversed(layout.attempt_numbers()):
        path = layout.attempt(number).environment_file
        with suppress(OSError, StoredFileError):
            return [Path(read_stored(path, _StartedIn, remedy="").started_in)]
    return []
