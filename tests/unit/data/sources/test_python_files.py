from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from phaseline.data.sources.python_files import PythonFiles, decode_python
from phaseline.data.sources.python_stdlib import PythonStdlib
from phaseline.data.sources.torch_source import TorchSource
from phaseline.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def library(tmp_path: Path) -> Path:
    files: dict[str, str | bytes] = {
        "json/__init__.py": "import json\n",
        "json/decoder.py": "x = 1\n",
        "json/tests/test_all.py": "excluded\n",
        "abc.py": "y = 2\n",
        "broken.py": b"\xff\xfe not utf-8\n",
        "idlelib/run.py": "excluded\n",
        "site-packages/torch/__init__.py": "excluded\n",
        "test/test_abc.py": "excluded\n",
        "abc.txt": "excluded\n",
    }
    for name, content in files.items():
        path = tmp_path / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path / "lib"


def test_python_files_leave_out_tests_and_what_was_installed(library: Path) -> None:
    files = PythonFiles("python_stdlib", library)
    assert files.paths == ["abc.py", "broken.py", "json/__init__.py", "json/decoder.py"]
    assert dict(files.read()) == {
        "abc.py": "y = 2\n",
        "json/__init__.py": "import json\n",
        "json/decoder.py": "x = 1\n",
    }


def test_python_files_keep_some_packages_when_they_are_named(library: Path) -> None:
    assert PythonFiles("python_stdlib", library, ["abc"]).paths == ["abc.py"]
    assert PythonFiles("python_stdlib", library, ["json"]).paths == [
        "json/__init__.py",
        "json/decoder.py",
    ]


@pytest.mark.parametrize(
    ("packages", "message"),
    [
        (["jsno"], r"holds \['jsno'\].*Did you mean 'json'"),
        ("json", "it must be a list of names"),
        ([], "it must be a list of names"),
    ],
)
def test_python_files_are_refused_when_packages_are_wrong(
    library: Path, packages: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        PythonFiles("python_stdlib", library, packages)


def test_python_files_are_refused_when_the_library_has_no_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no Python files"):
        PythonFiles("python_stdlib", tmp_path)


def test_fingerprint_follows_content_and_not_times(library: Path) -> None:
    before = PythonFiles("python_stdlib", library).fingerprint()
    os.utime(library / "abc.py", (1, 1))
    assert PythonFiles("python_stdlib", library).fingerprint() == before
    stamps = (library / "abc.py").stat()
    (library / "abc.py").write_text("y = 3\n", encoding="utf-8")
    os.utime(library / "abc.py", ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
    assert PythonFiles("python_stdlib", library).fingerprint() != before


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a\r\nb\rc\n", "a\nb\nc\n"),
        (b"\xef\xbb\xbfx", "x"),
        (b"# coding: latin-1\n\xe9", "# coding: latin-1\n\u00e9"),
        (b"# coding: no-such\n", None),
        (b"\xff", None),
    ],
)
def test_decode_python_obeys_the_declared_coding(content: bytes, text: str | None) -> None:
    assert decode_python(content) == text


def test_python_stdlib_yields_the_running_library_in_order() -> None:
    source = PythonStdlib(["json"])
    ids = [document.id for document in source.samples()]
    assert "json/decoder.py" in ids
    assert ids == sorted(ids)
    assert source.fingerprint() == PythonStdlib(["json"]).fingerprint()
    assert source.fingerprint() != PythonStdlib(["email"]).fingerprint()


def test_torch_source_yields_torchs_own_text_without_importing_it() -> None:
    code = """
import sys
from phaseline.data.sources import build_source
source = build_source("torch_source", {"packages": ["optim", "version"]})
documents = list(source.samples())
assert source.fingerprint()
assert "torch" not in sys.modules
print([document.id for document in documents if "class AdamW" in document.text])
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "['optim/adamw.py']"


def test_torch_source_is_refused_when_a_package_is_wrong() -> None:
    with pytest.raises(
        DataError, match=r"torch_source source holds \['optin'\].*Did you mean 'optim'"
    ):
        TorchSource(["optin"])


def test_torch_source_is_refused_when_torch_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phaseline.data.sources.torch_source.find_spec", lambda _: None)
    with pytest.raises(DataError, match="torch_source finds no torch"):
        TorchSource()
