from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from phaseline.errors import UsageError
from phaseline.session.files import write_json, write_json_once, write_text
from unit.session.conftest import StartPython, first_line

WRITE_FOREVER = """
import itertools, sys
from pathlib import Path
from phaseline.session.files import write_json
for number in itertools.count():
    write_json(Path(sys.argv[1]), {"number": number, "text": str(number % 10) * 300_000})
    if number == 3:
        print("writing", flush=True)
"""


def test_write_json_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    write_json(path, {"b": [2, None, "ü"]})
    assert json.loads(path.read_bytes()) == {"b": [2, None, "ü"]}
    assert list(tmp_path.iterdir()) == [path]


def test_write_text_keeps_the_old_text_when_the_new_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_json_leaves_a_whole_file_when_the_writer_is_killed(
    tmp_path: Path, start_python: StartPython
) -> None:
    path = tmp_path / "a.json"
    for _ in range(3):
        writer = start_python(WRITE_FOREVER, path)
        assert first_line(writer) == "writing"
        writer.kill()
        writer.wait()
        content = json.loads(path.read_bytes())
        assert content["text"] == str(content["number"] % 10) * 300_000


def test_write_json_once_keeps_the_first_when_many_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    barrier = Barrier(8)

    def write(number: int) -> bool:
        barrier.wait()
        return write_json_once(path, {"number": number})

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(write, range(8)))
    assert made.count(True) == 1
    assert json.loads(path.read_bytes()) == {"number": made.index(True)}
    assert list(tmp_path.iterdir()) == [path]


def test_write_json_once_says_what_is_missing_when_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(UsageError, match=r"a\.json cannot be made: the file system has no hard"):
        write_json_once(tmp_path / "a.json", {})
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, sys
from pathlib import Path
from phaseline.session.files import write_json
path = Path(sys.argv[1])
write_json(path, {"old": 1})
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (5, hard))
try:
    write_json(path, {"new": "x" * 100})
except OSError as error:
    print(error.strerror, path.read_text().strip(), error.filename)
"""


def test_refusal_of_the_file_system_names_the_file_that_was_written(
    tmp_path: Path, start_python: StartPython
) -> None:
    path = tmp_path / "outcome.json"
    told = start_python(FULL, path).communicate()[0]
    assert told.startswith("File too large {")
    assert told.rpartition("}")[2].strip() == str(path)
    assert json.loads(path.read_bytes()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]
