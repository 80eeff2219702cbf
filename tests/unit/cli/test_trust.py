"""Code that a session's directory names is not run unasked."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from phaseline.cli import main
from phaseline.cli.trust import code_of_session
from phaseline.config.plugins import UntrustedCodeError, load_attribute
from phaseline.errors import ExitCode
from phaseline.session.inputs import load_inputs
from phaseline.session.layout import SessionLayout
from unit.training.pipeline.adapter_session import Place


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = Place.make(tmp_path_factory.mktemp("trusted"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        place.enter(monkeypatch)
        assert place.run("whole").code is ExitCode.FINISHED
        yield place.layout().root


def use_factory(session: Path, factory: str, arguments: dict[str, str]) -> str:
    """Has the session's own configuration name code; returns what it was before."""
    path = SessionLayout(session).config_file
    before = path.read_text()
    config = YAML(typ="safe").load(before)
    config["model"] |= {"config": None, "factory": factory, "arguments": arguments}
    path.write_text(json.dumps(config))
    return before


@pytest.mark.parametrize(
    "words", [["sample", "--prompt", "word"], ["export", "--to", "exported"]], ids=lambda w: w[0]
)
def test_code_that_a_session_names_is_refused_with_the_flag_that_runs_it(
    session: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    trace = tmp_path / "trace"
    before = use_factory(session, "os:system", {"command": f"touch {trace}"})
    try:
        with pytest.raises(SystemExit) as end:
            main([words[0], str(session), *words[1:]])
    finally:
        SessionLayout(session).config_file.write_text(before)
    assert end.value.code == ExitCode.USAGE
    error = capsys.readouterr().err
    assert "model.factory is 'os:system' in " in error
    assert "add --trust-code" in error
    assert not trace.exists()
    assert not (tmp_path / "exported").exists()


def test_trusted_code_is_found_where_the_session_was_started(
    session: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = SessionLayout(session)
    (tmp_path / "started").mkdir()
    (tmp_path / "started" / "code_of_their_own.py").write_text("ANSWER = 42\n")
    path = layout.attempt(layout.attempt_numbers()[-1]).environment_file
    before = path.read_text()
    path.write_text(json.dumps({**json.loads(before), "started_in": str(tmp_path / "started")}))
    monkeypatch.setattr(sys, "path", [*sys.path])
    try:
        with (
            code_of_session(session, is_trusted=False),
            pytest.raises(UntrustedCodeError, match="code_of_their_own:ANSWER"),
        ):
            load_attribute("code_of_their_own:ANSWER", path="model.factory")
        with code_of_session(session, is_trusted=True):
            assert load_attribute("code_of_their_own:ANSWER", path="model.factory") == 42
    finally:
        path.write_text(before)


def test_trusted_code_is_found_in_a_project_that_was_moved_with_its_session(
    session: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = load_inputs(SessionLayout(session))
    assert inputs is not None
    assert inputs.session is not None
    shutil.copytree(inputs.started_in, tmp_path / "moved")
    (tmp_path / "moved" / "code_that_moved.py").write_text("ANSWER = 42\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    with code_of_session(tmp_path / "moved" / inputs.session, is_trusted=True):
        assert load_attribute("code_that_moved:ANSWER", path="model.factory") == 42


def test_own_code_is_found_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code_at_work.py").write_text("ANSWER = 42\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    assert load_attribute("code_at_work:ANSWER", path="model.factory") == 42


def test_only_code_that_packages_registered_is_believed(
    session: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = EntryPoint("named", "json:dumps", "phaseline.models")
    monkeypatch.setattr(
        "phaseline.config.plugins.entry_points",
        lambda group: [registered] if group == registered.group else [],
    )
    with code_of_session(session, is_trusted=False):
        assert load_attribute("json:dumps", path="model.factory") is json.dumps
        # What a module imports is reached through it, this package's own too.
        for name in ("json:loads", "phaseline.session.linux:os.system"):
            with pytest.raises(UntrustedCodeError, match=f"model.factory is '{name}'"):
                load_attribute(name, path="model.factory")
