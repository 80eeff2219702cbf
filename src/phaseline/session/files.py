"""Small files that are either whole or not there, whenever the machine stops."""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phaseline.errors import ExitCode, SessionError

PASSING = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.EDQUOT,
        errno.EINTR,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.ENOTCONN,
        errno.EREMOTEIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
"""What a file system may refuse for a while: another try may succeed, and is worth one."""


class NoHardLinksError(SessionError):
    """The file system cannot keep two processes from taking the same thing."""

    exit_code = ExitCode.USAGE


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Adds the path to what a file system refuses where the call knows a descriptor alone.

    Raises:
        OSError: The same, with the path.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Puts an object in place of whatever the file held; it is on the disk on return."""
    write_text(path, _dump(content))


def write_text(path: Path, text: str) -> None:
    """Puts a text in place of whatever the file held; it is on the disk on return."""
    with _written_aside(path, text) as aside:
        aside.replace(path)
    fsync_folder(path.parent)


def write_json_once(path: Path, content: Mapping[str, Any]) -> bool:
    """Writes an object unless the file exists. Of many writers at once, one succeeds.

    Returns:
        Whether this call made the file.

    Raises:
        NoHardLinksError: The file system cannot do that.
    """
    with _written_aside(path, _dump(content)) as aside:
        try:
            # Unlike opening with O_EXCL this never shows a file that is not yet whole.
            os.link(aside, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                raise
            raise NoHardLinksError(
                f"{path} cannot be made: the file system has no hard links, which keep two "
                "processes from taking the same thing. Put the session on another one "
                "(--session DIR or session.root)."
            ) from error
    fsync_folder(path.parent)
    return True


def fsync_file(path: Path) -> None:
    """Makes what was written to a file survive a power cut."""
    fsync_folder(path)  # the same call; the name says what it is for


def fsync_folder(path: Path) -> None:
    """Makes names that were added to or removed from a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with named(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _dump(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    # A message may quote a file's name that is no text; half a character is no JSON.
    return text.encode("utf-8", "replace").decode()


@contextmanager
def _written_aside(path: Path, text: str) -> Iterator[Path]:
    """Writes and flushes the text under a name of its own, which is gone afterwards."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with named(path), aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        aside.unlink(missing_ok=True)
