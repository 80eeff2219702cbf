"""`submit` and `validate` of a file that changed, beside a session that is half trained."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phaseline.cli import main
from phaseline.distributed.environment import RankEnvironment
from phaseline.errors import ExitCode, SessionChangedError
from phaseline.session.layout import SessionLayout
from phaseline.training.pipeline.session_manager import SessionManager
from unit.training.pipeline.sessions import TEXT, configure, publish

MODEL = "{model_type: llama, hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1, "
MODEL += "num_attention_heads: 2, num_key_value_heads: 2}"
SMALL = TEXT.replace("{model_type: llama}", MODEL).replace("  optimizer: {lr: 0.01}\n", "")
SMALL = SMALL.replace("10 steps}", "10 steps, optimizer: {lr: 0.01}}", 1)
SMALL = SMALL.replace("10 steps}", "10 steps, optimizer: {lr: 0.01}}", 1)
LR = "phases[0].optimizer.lr"


@pytest.fixture(autouse=True)
def without_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def layout(tmp_path: Path) -> SessionLayout:
    """A session that was stopped at step 5 of its first phase; its file says another rate now."""
    start(tmp_path)
    layout = SessionLayout(tmp_path / "session")
    publish(layout, "first", 5, 1)
    write(tmp_path, changed("0.02"))
    return layout


def start(folder: Path, *accept: str, text: str = SMALL, overrides: tuple[str, ...] = ()) -> None:
    """What ranks do first, and nothing of what comes then."""
    manager = SessionManager(
        configure(folder, *overrides, text=text), RankEnvironment.read({}), accept_changes=accept
    )
    manager.open().end(ExitCode.STOPPED, "a test")


def changed(lr: str) -> str:
    """The file with another rate of the first phase."""
    return SMALL.replace("lr: 0.01", f"lr: {lr}", 1)


def write(folder: Path, text: str) -> None:
    (folder / "session.yaml").write_text(text, encoding="utf-8")


def call(command: str, folder: Path, *words: str) -> int:
    given = [command, str(folder / "session.yaml"), "--session", str(folder / "session"), *words]
    with pytest.raises(SystemExit) as ended:
        main(given)
    return int(ended.value.code or 0)


def accepted_by(script: str) -> list[str]:
    """What a batch script hands over to its job."""
    words = shlex.split(script.splitlines()[-1])
    return [words[idx + 1] for idx, word in enumerate(words) if word == "--accept-change"]


def refusal_of_ranks(folder: Path, text: str) -> str:
    with pytest.raises(SessionChangedError, match="other settings") as refusal:
        start(folder, text=text)
    return str(refusal.value)


@pytest.mark.parametrize("words", [("submit",), ("submit", "--dry-run"), ("validate",)])
def test_change_is_refused_in_the_words_of_the_ranks_before_anything_is_queued(
    tmp_path: Path, layout: SessionLayout, capsys: pytest.CaptureFixture[str], words: tuple[str]
) -> None:
    assert call(words[0], tmp_path, *words[1:]) == ExitCode.USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    expected = refusal_of_ranks(tmp_path, (tmp_path / "session.yaml").read_text())
    assert shown.err == f"phaseline: {expected}\n"
    assert f"accept them with --accept-change '{LR}'" in shown.err
    assert not layout.jobs_dir.exists()


def test_harmless_change_is_submitted(
    tmp_path: Path, layout: SessionLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, SMALL)
    assert call("submit", tmp_path, "-o", "session.notes=word", "--dry-run") == 0
    assert accepted_by(capsys.readouterr().out) == []


@pytest.mark.parametrize("key", [LR, "phases[0].optimizer", "phases[first].optimizer"])
def test_accepted_change_is_carried_into_the_job_with_its_value_alone(
    tmp_path: Path, layout: SessionLayout, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    assert call("submit", tmp_path, "--dry-run", "--accept-change", key) == 0
    carried = accepted_by(capsys.readouterr().out)
    assert carried == [f"{LR}=0.02"]
    text = (tmp_path / "session.yaml").read_text()
    # Edited again while the job waits: that is not what was accepted.
    with pytest.raises(SessionChangedError, match=r"optimizer\.lr was 0\.01 and is now 0\.03"):
        start(tmp_path, *carried, text=text.replace("0.02", "0.03"))
    with pytest.raises(SessionChangedError, match=r"optimizer\.weight_decay was"):
        start(tmp_path, *carried, text=text.replace("lr: 0.02", "lr: 0.02, weight_decay: 0"))
    start(tmp_path, *carried, text=text)
    for _ in range(2):  # requeued, or another job of a chain
        start(tmp_path, *carried, text=text)


def test_job_may_accept_what_needs_no_acceptance_any_more(tmp_path: Path) -> None:
    """Its attempts may be gone, or the session may have been begun anew meanwhile."""
    start(tmp_path, f"{LR}=0.01")
    start(tmp_path, f"{LR}=0.01")


def test_key_that_meets_no_change_is_refused_before_submission(
    tmp_path: Path, layout: SessionLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--accept-change", LR, "--accept-change", "phases[0].schedule")
    assert call("submit", tmp_path, *words) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert "names phases[0].schedule, where no change is refused" in error
    assert call("submit", tmp_path, "--accept-change", f"{LR}x=3") == ExitCode.USAGE
    assert f"names {LR}x=3, where no change is refused" in capsys.readouterr().err


def test_member_of_an_array_that_has_not_begun_needs_no_acceptance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array = "cluster.array=['session.seed=1', 'session.seed=2']"
    member = tmp_path / "session-0"
    manager = SessionManager(configure_at(tmp_path, member), RankEnvironment.read({}))
    manager.open().end(ExitCode.STOPPED, "a test")
    publish(SessionLayout(member), "first", 5, 1)
    write(tmp_path, changed("0.02"))
    assert call("submit", tmp_path, "-o", array, "--dry-run") == ExitCode.USAGE
    assert f"The session at {member} was started with other" in capsys.readouterr().err
    assert call("submit", tmp_path, "-o", array, "--dry-run", "--accept-change", LR) == 0
    assert accepted_by(capsys.readouterr().out) == [f"{LR}=0.02"]
    write(tmp_path, SMALL)
    assert call("submit", tmp_path, "-o", array, "--accept-change", LR) == ExitCode.USAGE
    assert "no member of the array is refused a change" in capsys.readouterr().err


def configure_at(folder: Path, session: Path) -> Any:
    from phaseline.training.pipeline.configuration_builder import ConfigurationBuilder

    write(folder, SMALL)
    builder = ConfigurationBuilder(
        folder / "session.yaml", overrides=["session.seed=1"], session_dir=session
    )
    return builder.build(dp_world_size=1)


def test_finished_session_is_said_to_be_and_not_submitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    from phaseline.session.identity import load_identity, save_identity

    start(tmp_path)
    layout = SessionLayout(tmp_path / "session")
    publish(layout, "first", 10, 1, final=True)
    publish(layout, "second", 10, 1, final=True)
    identity = load_identity(layout)
    assert identity is not None
    save_identity(layout, replace(identity, state="finished"))
    assert call("submit", tmp_path) == 0
    assert "finished" in capsys.readouterr().out
    assert not layout.jobs_dir.exists()


def test_validate_says_what_passes_and_the_command_that_goes_on(
    tmp_path: Path, layout: SessionLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("validate", tmp_path, "-o", "session.notes=x", "--accept-change", LR) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 'The session goes on: changed since the last start: session.notes: "" -> "x"' in lines
    assert f"The session goes on: changes accepted: {LR}: 0.01 -> 0.02" in lines
    assert lines[-1].endswith(f"--session {tmp_path}/session --accept-change '{LR}'")
    write(tmp_path, SMALL)
    assert call("validate", tmp_path) == 0
    assert "nothing changed since the last start" in capsys.readouterr().out


def test_validate_finds_the_session_of_the_file_itself(
    tmp_path: Path,
    layout: SessionLayout,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    layout.root.rename(tmp_path / "runs" / "test")
    with pytest.raises(SystemExit) as ended:
        main(["validate", "session.yaml"])
    assert ended.value.code == ExitCode.USAGE
    assert "The session at runs/test was started with other settings" in capsys.readouterr().err


def test_validate_writes_one_document_of_what_is_refused_and_what_may_be_accepted(
    tmp_path: Path, layout: SessionLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("-o", "session.notes=x", "-o", "phases[0].data.held_out_frac=0.3", "--json")
    assert call("validate", tmp_path, *words) == ExitCode.USAGE
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert shown.err == ""
    assert set(document) == {
        *("valid", "faults", "session", "directory", "phases", "changes", "command"),
    }
    assert (document["valid"], document["session"]) == (False, "test")
    assert [phase["phase"] for phase in document["phases"]] == ["first", "second"]
    assert {change["path"]: change["verdict"] for change in document["changes"]} == {
        "session.notes": "passes",
        "phases[0].data.held_out_frac": "refused",
        LR: "may be accepted",
    }
    [rate] = [change for change in document["changes"] if change["path"] == LR]
    assert (rate["old"], rate["new"], rate["effect"]) == (0.01, 0.02, "numbers")
    assert rate["location"].endswith("session.yaml:8")
    assert rate["flag"] == f"--accept-change '{LR}'"

    assert call("validate", tmp_path, "--json", "--accept-change", LR) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["valid"] is True
    assert [change["verdict"] for change in document["changes"]] == ["accepted"]


def test_validate_writes_faults_as_a_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, changed("-1"))
    assert call("validate", tmp_path, "--json") == ExitCode.USAGE
    document = json.loads(capsys.readouterr().out)
    assert document["valid"] is False
    [fault] = document["faults"]
    assert fault["path"] == "phases[0].optimizer.lr"
    assert set(fault) == {"path", "location", "problem", "fix"}


def test_validate_compares_without_torch(tmp_path: Path, layout: SessionLayout) -> None:
    code = (
        "import sys\n"
        "from phaseline.cli import main\n"
        "try:\n"
        f"    main(['validate', '{tmp_path}/session.yaml', '--session', '{layout.root}',\n"
        "          '-o', 'model.config.attention_dropout=0.5', '-o', 'model.config.hidden_size=16',"
        "          '-o', 'phases[0].callbacks=[untouched:Own]'])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 2, end.code\n"
        "heavy = {'torch', 'numpy', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    (tmp_path / "untouched.py").write_text("raise SystemExit('was imported')\n")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "hidden_size is 8 there and would be 16" in done.stderr
    assert "the start looks first whether its checkpoints go with it" in done.stderr
