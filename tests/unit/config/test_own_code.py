from __future__ import annotations

from pathlib import Path

import pytest
import xxhash

from phaseline.config.own_code import hash_own_code
from unit.config.session_text import VALID, load


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("import os, helpers\nfrom torch import nn\nclass Own: ...\n")
    (tmp_path / "helpers.py").write_text("from package.inner import thing\nimport own\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "inner.py").write_text("thing = 1\n")
    (tmp_path / "unused.py").write_text("this is not even Python\n")
    return tmp_path


def hashes(folder: Path, objective: str) -> dict[str, str]:
    text = VALID.replace("objective: causal_lm", f"objective: '{objective}'")
    return hash_own_code(load(folder, text=text), folder)


def test_named_module_and_what_it_imports_beside_it_are_hashed(folder: Path) -> None:
    found = hashes(folder, "own:Own")
    assert set(found) == {"own.py", "helpers.py", "package/__init__.py", "package/inner.py"}
    assert found["package/inner.py"] == xxhash.xxh3_128_hexdigest(b"thing = 1\n")
    (folder / "helpers.py").write_text("(")
    assert set(hashes(folder, "own:Own")) == {"own.py", "helpers.py"}


@pytest.mark.parametrize("name", ["causal_lm", "os:system", "torch.nn:Linear"])
def test_what_comes_with_python_or_is_installed_is_left_out(folder: Path, name: str) -> None:
    assert hashes(folder, name) == {}


def test_package_that_is_a_plain_folder_is_hashed(folder: Path) -> None:
    (folder / "plain" / "deep").mkdir(parents=True)
    (folder / "plain" / "deep" / "inner.py").write_text("import helpers\n")
    found = hashes(folder, "plain.deep.inner:Own")
    assert "plain/deep/inner.py" in found
    assert "helpers.py" in found
