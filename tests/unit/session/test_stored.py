"""What is read from a session's files is checked, bounded and named when it is wrong."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from phaseline.errors import ExitCode, SessionError
from phaseline.session.attempts import Adopted, ErrorRecord, Outcome, take_attempt
from phaseline.session.files import write_json
from phaseline.session.identity import SessionIdentity
from phaseline.session.jobs import JobStart
from phaseline.session.layout import SessionLayout
from phaseline.session.lease import LeaseOwner
from phaseline.session.stop_request import StopRequest
from phaseline.session.stored import (
    CheckpointPath,
    Count,
    PlainName,
    StoredFileError,
    parse_json,
    read_file,
    read_stored,
)
from unit.covered_lines import covered

REMEDY = "Remove it."
GOOD: list[Any] = [
    Outcome(ExitCode.STOPPED, "asked", 1.5),
    Adopted(("phases/a/run-1/checkpoints/step-00000003.a0001",), None, covered((1, 3))),
    ErrorRecord(1, "h", "a", 3, "ValueError", "m", "t", False, 1.5),
    SessionIdentity("5e55", "demo", 1.5, "f", "w", "0.1", "open", [{"phase": "a"}], "/p", 2),
    JobStart(
        job_id="7", restart=0, line="l", nodes="n", began=1.0, slot_ends=None, since=0,
        checkpoint=None,
    ),
    LeaseOwner("h", 3, 5, "b", "n", None, 0, 1),
    StopRequest(1, "h", 3, 1.5),
]  # fmt: skip


def written(folder: Path, content: object) -> Path:
    path = folder / "a.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("record", GOOD, ids=lambda record: type(record).__name__)
def test_record_is_read_as_it_was_written(tmp_path: Path, record: Any) -> None:
    path = written(tmp_path, asdict(record))
    assert read_stored(path, type(record), remedy=REMEDY) == record


@pytest.mark.parametrize(
    ("record", "field"),
    [(record, field.name) for record in GOOD for field in fields(record)],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_field_of_a_wrong_type_is_named(tmp_path: Path, record: Any, field: str) -> None:
    wrongs: list[object] = [{"a": {}}, [[[]]], True, "\x1b[31m"]
    for wrong in wrongs:
        if isinstance(getattr(record, field), (str, bool)) and isinstance(wrong, (str, bool)):
            continue
        if field == "code" and wrong is True:
            continue  # 1, for Python
        if field in ("host", "phase", "job_id", "checkpoint") and isinstance(wrong, str):
            continue  # a text, as is written there
        path = written(tmp_path, {**asdict(record), field: wrong})
        with pytest.raises(StoredFileError, match=rf"a\.json .* {field}(\.| is ).* Remove it\."):
            read_stored(path, type(record), remedy=REMEDY)


def test_field_that_is_missing_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, {"code": 0, "reason": "x"})
    with pytest.raises(StoredFileError, match=r"a\.json .*: time is missing\. Remove it\."):
        read_stored(path, Outcome, remedy=REMEDY)


@dataclass(frozen=True)
class Names:
    name: PlainName = "a"
    path: CheckpointPath = "phases/a/run-1/final/step-00000001.a0001"
    count: Count = 0


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "/etc/passwd", "a/b", "a\0b", "./a", "a/.."]
)
def test_name_with_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoredFileError, match=r"name is .*must be the plain name of a file"):
        read_stored(written(tmp_path, {"name": name}), Names, remedy=REMEDY)


@pytest.mark.parametrize(
    "name",
    [
        "../precious",
        "/etc",
        "phases/../run-1/final/step-1",
        "phases/a/run-1/final/..",
        "phases/a/run-1/final/step-1/../../../../../x",
        "phases/a/run-1/other/step-1",
        "phases/a/run-0/final/step-1",
        "",
    ],
)
def test_path_that_is_no_checkpoints_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoredFileError, match=r"path is .*path of a checkpoint inside the session"):
        read_stored(written(tmp_path, {"path": name}), Names, remedy=REMEDY)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\0" * 9, b"\xff", b"[" * 100_000, b'{"name":' * 100_000, b"[1]", b"3", b"null"],
    ids=lambda data: repr(data[:10]),
)
def test_file_that_is_no_object_is_refused_in_words(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(StoredFileError, match=r"a\.json .*Remove it\."):
        read_stored(path, Names, remedy=REMEDY)


@pytest.mark.parametrize("data", [b'{"names": {"\\ud800": 1}}', b'["\\uDfff"]'])
def test_half_a_character_is_refused_in_words(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(StoredFileError, match=r"a\.json cannot be read: it holds half a character"):
        parse_json(data, tmp_path / "a.json", remedy="Remove it.")


def test_whole_characters_of_two_halves_are_text(tmp_path: Path) -> None:
    data = json.dumps({"name": "\N{GRINNING FACE}"}).encode()
    assert parse_json(data, tmp_path / "a.json", remedy="") == {"name": "\N{GRINNING FACE}"}


def test_what_is_no_file_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("folder", "pipe", "circle"):
        with pytest.raises(StoredFileError, match=rf"{name} is .*Remove it\."):
            read_file(tmp_path / name, remedy=REMEDY)
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for name in ("nowhere", "gone"):
        with pytest.raises(FileNotFoundError, match=name):
            read_file(tmp_path / name, remedy=REMEDY)


def test_file_that_is_too_large_is_refused_without_being_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StoredFileError, match="larger than 100 bytes"):
        read_file(path, remedy=REMEDY, max_bytes=100)


def test_damage_is_nothing_that_another_try_mends(tmp_path: Path) -> None:
    with pytest.raises(StoredFileError, match=r"should be an object") as caught:
        read_stored(written(tmp_path, "text"), Names, remedy=REMEDY)
    assert caught.value.exit_code is ExitCode.USAGE


def test_message_with_half_a_character_is_written_and_read(tmp_path: Path) -> None:
    # As of a file whose name is no text.
    error = ErrorRecord(0, "h", "a", 3, "OSError", "/d/\udcff.txt \u00fc", "t", False, 1.5)
    write_json(tmp_path / "new.json", asdict(error))
    (tmp_path / "old.json").write_text(json.dumps(asdict(error)))
    for name in ("new.json", "old.json"):
        read = read_stored(tmp_path / name, ErrorRecord, remedy=REMEDY)
        assert read.message == "/d/?.txt \u00fc"


def test_attempt_number_that_no_session_reaches_is_refused(tmp_path: Path) -> None:
    layout = SessionLayout(tmp_path)
    layout.attempt(10**9 - 1).dir.mkdir(parents=True)
    with pytest.raises(SessionError, match="holds an attempt of the number 999999999"):
        take_attempt(layout)
