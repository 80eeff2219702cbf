"""Every example, run as its own text says; and names that a package gives to such things."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from phaseline.cli import main
from phaseline.config.loading import load_config
from phaseline.errors import ConfigurationError, ExitCode
from phaseline.session.layout import SessionLayout
from phaseline.session.metrics_view import read_metrics
from phaseline.training_pipeline import TrainingPipeline

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))
QUIET = "tracking: {interval_steps: 1, console: plain, wandb: {mode: disabled}}\n"
PACKAGE = """\
[phaseline.objectives]
focal = tiny_parts.focal_objective:FocalLoss
[phaseline.sources]
places = tiny_parts.character_model:PlaceNames
[phaseline.models]
characters = tiny_parts.character_model:build
[phaseline.optimizers]
signs = tiny_parts.signed_momentum:SignedMomentum
[phaseline.callbacks]
slow = tiny_parts.slow_steps_callback:SlowSteps
"""
NAMED = """\
session: {name: named}
model: {factory: characters, arguments: {width: 8}}
phases:
  - name: only
    objective: focal
    duration: 2 steps
    data:
      {source: places, sequence_length: 16, held_out_frac: 0.2, separate_documents: false}
    batch: {global_size: 8, micro_size: 8}
    optimizer: {name: signs, lr: 1e-2}
    engine: {kind: plain}
    callbacks: [slow]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to start in; what is imported from there goes again."""
    monkeypatch.setenv("PHASELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {"tiny_parts", *(file.stem for file in FILES)}:
            del sys.modules[name]


def session_of(file: Path) -> str:
    """The session file in an example's first lines, behind its title."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert text is not None
    return text.partition("\n\n")[2] + "\n" + QUIET


def test_examples_are_six_and_the_table_names_each() -> None:
    table = (EXAMPLES / "README.md").read_text()
    assert len(FILES) == 6
    assert all(f"[{file.name}]({file.name})" in table for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_example_runs_as_it_says_and_learns(
    file: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    (place / "session.yaml").write_text(session_of(file))
    assert TrainingPipeline(place / "session.yaml").run().code is ExitCode.FINISHED
    output = capsys.readouterr().err
    if file.stem == "slow_steps_callback":
        assert "of 20 steps were slow" in output
    [session] = (place / "runs").iterdir()
    losses = [
        value
        for record in read_metrics(SessionLayout(session))
        for key, value in record["metrics"].items()
        if key.endswith("train/loss")
    ]
    assert len(losses) == 20
    assert losses[-1] < losses[0] - 0.1


@pytest.fixture
def package(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The examples as a package that is installed, as pip leaves it."""
    site = place / "site"
    (site / "tiny_parts").mkdir(parents=True)
    (site / "tiny_parts" / "__init__.py").touch()
    for file in FILES:
        (site / "tiny_parts" / file.name).write_text(file.read_text())
    info = site / "tiny_parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-parts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(PACKAGE)
    monkeypatch.syspath_prepend(site)
    return site


def test_registered_names_are_found_without_an_import_and_kept_as_what_they_stand_for(
    place: Path, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "session.yaml").write_text(NAMED + QUIET)
    with pytest.raises(SystemExit) as end:
        main(["validate", "session.yaml"])
    assert not end.value.code
    assert "session.yaml is valid" in capsys.readouterr().out
    assert not any(name.startswith("tiny_parts") for name in sys.modules)
    config = load_config(place / "session.yaml").config
    [phase] = config.phases
    assert config.model.factory == "tiny_parts.character_model:build"
    assert phase.objective == "tiny_parts.focal_objective:FocalLoss"
    assert phase.optimizer.name == "tiny_parts.signed_momentum:SignedMomentum"
    assert phase.data.sources[0].source == "tiny_parts.character_model:PlaceNames"
    assert phase.callbacks == ("tiny_parts.slow_steps_callback:SlowSteps",)
    assert TrainingPipeline(place / "session.yaml").run().code is ExitCode.FINISHED


def test_name_that_nobody_registered_is_refused_with_those_that_are_known(
    place: Path, package: Path
) -> None:
    (place / "session.yaml").write_text(NAMED.replace("objective: focal", "objective: focsl"))
    with pytest.raises(
        ConfigurationError,
        match=r"objective is 'focsl' \(session\.yaml:5\); it must be .*focal, or one of your own.*"
        r"Did you mean focal\?",
    ):
        load_config(Path("session.yaml"))
    (place / "session.yaml").write_text(NAMED.replace("[slow]", "[slwo]"))
    with pytest.raises(ConfigurationError, match=r"callbacks\[0\] is 'slwo'.*module:attribute"):
        load_config(Path("session.yaml"))
