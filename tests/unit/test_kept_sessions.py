"""A session of every released format goes on under this version: see docs/upgrading.md."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from make_kept_session import STOPPED_AT, losses_of
from phaseline.cli import main
from phaseline.config.upgrades import FORMAT, OLDEST
from phaseline.errors import ExitCode
from phaseline.session.layout import SessionLayout
from phaseline.session.metrics_view import read_metrics
from phaseline.training_pipeline import TrainingPipeline

SESSIONS = Path(__file__).parents[1] / "data" / "sessions"
FORMATS = sorted(path.name for path in SESSIONS.iterdir())


@pytest.fixture(params=FORMATS)
def project(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(SESSIONS / request.param, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PHASELINE_CACHE", str(tmp_path / "cache"))
    return folder


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    return int(end.value.code or 0)


def close(found: list[list[Any]], expected: list[list[Any]]) -> bool:
    """Whether records are the same, and their losses as near as machines and versions allow."""
    losses = pytest.approx([one[3] for one in expected], rel=1e-3)
    return [one[:3] for one in found] == [one[:3] for one in expected] and losses == [
        one[3] for one in found
    ]


def test_there_is_a_session_of_every_format_that_is_read() -> None:
    assert [f"format-{number}" for number in range(OLDEST, FORMAT + 1)] == FORMATS


def test_session_of_a_released_format_is_shown_goes_on_and_is_exported(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = json.loads((project / "expected.json").read_text())
    layout = SessionLayout(project / "session")
    for words in (("status", "session"), ("verify", "session"), ("metrics", "session")):
        assert call(*words) == 0, words
    told = capsys.readouterr().out
    assert "second" in told
    assert "3 of 3 checkpoints are whole" in told
    before = losses_of(layout)
    assert sum(one[0] == "train" for one in before) == STOPPED_AT
    assert close(before, expected[: len(before)])

    outcome = TrainingPipeline("session.yaml", session_dir=layout.root).run()
    assert outcome.code is ExitCode.FINISHED
    assert close(losses_of(layout), expected)
    steps = [one["global_step"] for one in read_metrics(layout) if one["kind"] == "train"]
    assert steps == list(range(1, len(steps) + 1))
    assert "resuming second at step 2 of 5" in capsys.readouterr().err
    assert (layout.exports_dir / "second" / "model.safetensors").is_file()

    assert call("report", "session") == 0
    assert "second" in layout.report_file.read_text()
    assert call("export", "session", "--phase", "first", "--to", "first") == 0
    assert (project / "first" / "config.json").is_file()
    assert call("sample", "session", "--prompt", "word1", "--max-new-tokens", "4") == 0
    assert json.loads(layout.session_file.read_text())["format"] == FORMAT
