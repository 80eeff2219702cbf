"""The one reader of what lies in a session, in a checkpoint and in the data cache.

What a file holds is believed only after it was checked against a model: types, ranges, names
that are plain names, paths that stay inside. Files are read up to a size, and only where they
are files: a folder, a device or a link that leads nowhere is named, with what to do about it.
"""

from __future__ import annotations

import errno
import json
import re
import stat
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from phaseline.errors import ExitCode, SessionError

Model = TypeVar("Model")

MAX_BYTES = 1 << 26
"""Largest file that is read whole, 64 MiB; what is written here is far smaller."""
_SHOWN_CHARS = 60
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
_NO_FILE = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})
_CHECKPOINT_NAME = re.compile(r"step-[\w.-]+", re.ASCII)
_CHECKPOINT_FOLDER = re.compile(r"phases/[^/\0]+/run-[1-9]\d{0,8}/(checkpoints|final)", re.ASCII)


_adapters: dict[type[Any], TypeAdapter[Any]] = {}
"""Made when first asked for: making one takes longer than reading a file."""


class StoredFileError(SessionError):
    """A file does not hold what was written there. Names file, field and remedy.

    No second try mends it.
    """

    exit_code = ExitCode.USAGE


def is_plain_name(name: str) -> bool:
    """Whether a text may be the name of a file in the folder at hand."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _plain_name(name: str) -> str:
    if not is_plain_name(name):
        raise ValueError("must be the plain name of a file, without a folder")
    return name


def is_checkpoint_name(name: str) -> bool:
    """Whether a text may be the name of a checkpoint's folder."""
    return _CHECKPOINT_NAME.fullmatch(name) is not None


def _checkpoint_path(path: str) -> str:
    folder, _, name = path.rpartition("/")
    is_inside = _CHECKPOINT_FOLDER.fullmatch(folder) and ".." not in folder.split("/")
    if not is_inside or not is_checkpoint_name(name):
        raise ValueError("must be the path of a checkpoint inside the session")
    return path


PlainName = Annotated[str, AfterValidator(_plain_name)]
"""The name of a file in the folder at hand."""
CheckpointPath = Annotated[str, AfterValidator(_checkpoint_path)]
"""Of a checkpoint, from the session's directory on."""
LARGEST_COUNT = 2**63 - 1
LATEST_TIME = 253_402_300_799
"""The last second of the year 9999: calendars of Python end there."""
Count = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
"""How many of something."""
UnixTime = Annotated[float, Field(ge=0, le=LATEST_TIME)]
"""A moment, in seconds. Another number is none that a person could be shown."""


def read_stored(path: Path, model: type[Model], *, remedy: str) -> Model:
    """Reads a file of one JSON object as a dataclass.

    Args:
        path: The file.
        model: A dataclass whose fields are what the object may have and must have.
        remedy: What a person may do if it holds something else; a sentence.

    Raises:
        FileNotFoundError: There is no such file.
        StoredFileError: It is no file, or holds something else.
        OSError: It cannot be read just now.
    """
    return check(read_file(path, remedy=remedy), model, path, remedy=remedy)


def check(data: bytes, model: type[Model], path: Path, *, remedy: str) -> Model:
    """Makes a JSON object a dataclass, field by field. Keys that it does not know are left out.

    Numbers must be numbers and texts texts: nothing is made of something else.

    Args:
        data: The JSON text.
        model: The dataclass.
        path: The file that it came from, for the message.
        remedy: As for `read_stored`.

    Raises:
        StoredFileError: It is something else; the message names the first field.
    """
    try:
        checked: Model = _adapter(model).validate_json(_whole_characters(data), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        problem = first["msg"].removeprefix("Value error, ")
        if first["type"] == "json_invalid":
            raise StoredFileError(f"{path} cannot be read: {problem}. {remedy}") from error
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        if first["type"] == "missing":
            raise StoredFileError(
                f"{path} does not hold what this version writes: {field} is missing. {remedy}"
            ) from error
        found = repr(first["input"])
        shown = found if len(found) <= _SHOWN_CHARS else f"{found[:_SHOWN_CHARS]}..."
        raise StoredFileError(
            f"{path} does not hold what this version writes: {field} is {shown}: {problem}. {remedy}"
        ) from error
    return checked


def _whole_characters(data: bytes) -> bytes:
    """JSON without halves of characters, which an older version wrote where a name was no text."""
    if b"\\ud" not in data:
        return data
    try:
        return json.dumps(json.loads(data), ensure_ascii=False).encode("utf-8", "replace")
    except (ValueError, RecursionError):
        return data


def parse_object(data: bytes, path: Path, *, remedy: str) -> dict[str, Any]:
    """Parses JSON that must be one object.

    Raises:
        StoredFileError: It is no JSON, nested too deep, or no object.
    """
    content = parse_json(data, path, remedy=remedy)
    if not isinstance(content, dict):
        raise StoredFileError(
            f"{path} holds {type(content).__name__} where an object was written. {remedy}"
        )
    return content


def parse_json(data: bytes, path: Path, *, remedy: str) -> Any:
    """Parses JSON of any kind, whose texts are text.

    Raises:
        StoredFileError: It is no JSON, nested too deep, or holds half a character.
    """
    try:
        content = json.loads(data)
        if _HALF_CHARACTER.search(data):
            _require_text(content)
        return content
    except (ValueError, RecursionError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise StoredFileError(f"{path} cannot be read: {why}. {remedy}") from error


def _require_text(content: object) -> None:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("it holds half a character, which no text has") from error


def read_file(path: Path, *, remedy: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Reads a whole file of a bounded size.

    Raises:
        FileNotFoundError: There is no such file.
        StoredFileError: It is no file, or too large to be what was written.
        OSError: It cannot be read just now.
    """
    try:
        # Looked at before it is opened: a pipe without a writer would be waited for.
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "something else"
            raise StoredFileError(f"{path} is {what} where a file was written. {remedy}")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise StoredFileError(f"{path} is no file: {error.strerror}. {remedy}") from error
        raise
    if len(data) > max_bytes:
        raise StoredFileError(
            f"{path} is larger than {max_bytes} bytes, which no such file is. {remedy}"
        )
    return data


def _adapter(model: type[Any]) -> TypeAdapter[Any]:
    if model not in _adapters:
        _adapters[model] = TypeAdapter(model)
    return _adapters[model]
