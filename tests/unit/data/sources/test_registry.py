from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from phaseline.config.known_sources import SOURCES, known_shape
from phaseline.data.sources import build_source
from phaseline.data.sources.registry import BUILT_IN
from phaseline.errors import ConfigurationError, DataError
from unit.data.sources.made_files import save_dataset


def test_registry_builds_what_the_configuration_knows(tmp_path: Any) -> None:
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    np.save(tmp_path / "a.npy", np.arange(3))
    texts = {"paths": [str(tmp_path / "*.txt")]}
    arguments: dict[str, dict[str, Any]] = {
        "text_files": texts,
        "files": {**texts, "format": "lines"},
        "token_files": {"paths": [str(tmp_path / "a.npy")]},
        "torch_source": {"packages": ["nn"]},
        "hub_dataset": {"name": "nobody/nothing", "shape": "chats"},
        "digits": {},
        "saved_dataset": {"path": save_dataset(tmp_path / "saved", [{"q": "1", "a": "2"}])},
    }
    arguments["saved_dataset"]["columns"] = {"prompt": "q", "completion": "a"}
    assert BUILT_IN.keys() == SOURCES.keys()
    for name in SOURCES:
        given = arguments.get(name, {"packages": ["json"]})
        assert build_source(name, given).shape == known_shape(name, given)


def test_registry_names_the_nearest_source_when_the_name_is_unknown() -> None:
    with pytest.raises(DataError, match=r"'python_stdlb' is unknown.*Did you mean 'python_stdlib'"):
        build_source("python_stdlb", {})


def test_registry_names_the_arguments_when_they_do_not_fit() -> None:
    with pytest.raises(DataError, match=r"does not take the arguments \{'pakages': \['json'\]\}"):
        build_source("python_stdlib", {"pakages": ["json"]})


def test_registry_builds_a_source_of_ones_own_when_it_is_named_by_module() -> None:
    found = build_source(
        "phaseline.data.sources.python_stdlib:PythonStdlib", {"packages": ["json"]}
    )
    assert found.shape == "text"


@pytest.mark.parametrize("name", ["no_such_module:build", "phaseline.data:no_such_attribute"])
def test_registry_says_what_cannot_be_imported_when_a_module_is_wrong(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"'{name}', which cannot be imported"):
        build_source(name, {})


def test_registry_refuses_what_is_named_when_it_is_not_callable() -> None:
    with pytest.raises(DataError, match="is a str; it must be a callable"):
        build_source("phaseline.data.cache:MANIFEST", {})


@pytest.mark.parametrize(
    ("built", "message"),
    [
        ({}, "has the shape None"),
        ({"shape": "image"}, "has the shape 'image'"),
        ({"shape": "text", "fingerprint": str}, "has no method `samples`"),
        ({"shape": "pairs", "samples": str}, "has no method `fingerprint`"),
    ],
)
def test_registry_refuses_what_was_built_when_it_is_no_source(
    built: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BUILT_IN, "text_files", lambda: SimpleNamespace(**built))
    with pytest.raises(DataError, match=message):
        build_source("text_files", {})
