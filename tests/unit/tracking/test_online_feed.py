"""The follower and `phaseline sync` against a server that speaks wandb's protocol."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from phaseline.errors import ExitCode, SessionBusyError, UsageError
from phaseline.tracking.follower import start_follower, wait_for_follower
from phaseline.tracking.follower_lock import in_place_of_follower
from phaseline.tracking.wandb_sync import sync_session
from unit.tracking.followers import PATIENCE_S, follower_of, followers_of, log_of, until, until_dead
from unit.tracking.session_builder import SessionBuilder
from unit.tracking.wandb_server import StoredRun, WandbServer

KEY = "0123456789abcdef" * 2 + "01234567"
ONLINE = {
    "mode": "online",
    "project": "demo-project",
    "entity": "my-team",
    "group": "ablations",
    "tags": ["a", "b"],
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    with WandbServer().serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
        yield server


@pytest.fixture
def online(session: SessionBuilder) -> SessionBuilder:
    session.configure(wandb=ONLINE)
    return session


def _run(server: WandbServer) -> StoredRun:
    assert list(server.runs) == ["runid123"]
    return server.runs["runid123"]


def _steps(server: WandbServer) -> list[int]:
    return [row["_step"] for row in _run(server).rows]


def _finish(session: SessionBuilder, attempt: int) -> None:
    session.end(attempt)
    assert wait_for_follower(session.layout.root, PATIENCE_S), log_of(session.layout.root)


@pytest.mark.extended("wandb starts several times")
def test_run_has_every_step_once_when_follower_and_attempt_are_killed(
    online: SessionBuilder, server: WandbServer, parent: subprocess.Popen[bytes]
) -> None:
    root = online.layout.root
    first = online.attempt()
    online.train(first, range(1, 101))
    start_follower(root, parent.pid)
    until(lambda: bool(server.runs) and len(_run(server).history) > 0)
    # In the file, and perhaps not at the server any more when it is killed.
    online.train(first, range(101, 201))
    follower = follower_of(root)
    follower.kill()
    follower.wait()

    second = online.attempt((first, 150))
    start_follower(root, parent.pid)
    online.train(second, range(151, 221))
    online.event(
        second, "settings_changed", changes=[{"path": "session.notes", "old": "", "new": "x"}]
    )
    _finish(online, second)

    assert _steps(server) == list(range(5, 1101, 5))
    run = _run(server)
    assert [row["global_step"] for row in run.rows] == list(range(1, 221))
    last = run.rows[-1]
    assert (last["phase_step"], last["tokens"], last["session/phase_idx"]) == (220, 220 * 2048, 0)
    assert last["wall_s"] == pytest.approx(220)
    attempts = [row["session/attempt"] for row in run.rows]
    assert attempts == sorted(attempts)
    assert set(attempts) == {1, 2}
    assert run.exit_code == 0
    _assert_described(run)
    _assert_no_key(root)


def _assert_described(run: StoredRun) -> None:
    first = run.upserts[0]
    assert (first["project"], first["entity"]) == ("demo-project", "my-team")
    assert (first["groupName"], first["tags"], first["displayName"]) == (
        "ablations", ["a", "b"], "demo",
    )  # fmt: skip
    assert first["notes"] == "A made-up session."
    assert run.config["phases"]["value"][0]["optimizer"]["lr"] == 1e-3
    changes = run.config["session_changes"]["value"]
    assert changes == [{"attempt": 2, "path": "session.notes", "old": "", "new": "x"}]
    assert [(a["title"], a["severity"], a["text"].partition(":")[0]) for a in run.alerts] == [
        ("demo: crashed", "ERROR", "attempt 1"),
        ("demo: finished", "INFO", "attempt 2"),
    ]


def _assert_no_key(root: Path) -> None:
    files = [path for path in root.rglob("*") if path.is_file()]
    assert any(path.name == "follower.log" for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


@pytest.mark.extended("wandb waits longer and longer between its tries")
def test_run_is_complete_when_the_network_is_off_at_the_start_and_cut_midway(
    online: SessionBuilder, server: WandbServer, parent: subprocess.Popen[bytes]
) -> None:
    root = online.layout.root
    attempt = online.attempt()
    server.is_cut = True
    online.train(attempt, range(1, 51))
    start_follower(root, parent.pid)
    until(lambda: server.num_refused > 2)
    assert server.runs == {}
    server.is_cut = False
    until(lambda: bool(server.runs) and len(_run(server).history) >= 50)

    server.is_cut = True
    online.train(attempt, range(51, 101))
    refused = server.num_refused
    until(lambda: server.num_refused > refused)
    server.is_cut = False
    _finish(online, attempt)
    assert _steps(server) == list(range(5, 501, 5))


@pytest.mark.extended("wandb waits longer and longer between its tries")
def test_run_is_complete_when_wandb_is_killed_while_the_server_lags_behind(
    online: SessionBuilder, server: WandbServer, parent: subprocess.Popen[bytes]
) -> None:
    root = online.layout.root
    attempt = online.attempt()
    online.train(attempt, range(1, 31))
    start_follower(root, parent.pid)
    until(lambda: bool(server.runs) and len(_run(server).history) >= 30)
    # wandb writes these to its file and cannot send them.
    server.is_cut = True
    online.train(attempt, range(31, 331))
    refused = server.num_refused
    until(lambda: server.num_refused > refused)
    for child in follower_of(root).children():
        child.kill()
        until_dead(child)
    server.is_cut = False
    online.train(attempt, range(331, 341))
    _finish(online, attempt)
    assert "a new follower goes on" in log_of(root)
    assert _steps(server) == list(range(5, 1701, 5))


@pytest.mark.extended("wandb starts several times")
def test_sync_builds_the_run_from_offline_attempts_and_goes_on_where_the_server_is(
    session: SessionBuilder, server: WandbServer, parent: subprocess.Popen[bytes]
) -> None:
    root = session.layout.root
    first = session.attempt()
    session.train(first, range(1, 61))
    start_follower(root, parent.pid)
    until(lambda: any((root / "wandb").glob("offline-run-*")))
    killed = follower_of(root)
    killed.kill()
    killed.wait()
    second = session.attempt((first, 40))
    session.train(second, range(41, 71))
    session.end(second, ExitCode.STOPPED, "SIGTERM")
    third = session.attempt((first, 40), (second, 30))
    session.train(third, range(71, 81))
    assert server.requests == []

    assert _sync(root) == "demo: run runid123 is complete in project demo-project\n"
    assert _steps(server) == list(range(5, 401, 5))
    session.train(third, range(81, 91))
    session.append(third, [_samples(session.phases[0], 90)])
    session.end(third)
    _sync(root)
    assert _steps(server) == [*range(5, 451, 5), 452]
    run = _run(server)
    assert run.config["phases"]["value"][1]["name"] == "instruct"
    [table] = [data for name, data in run.files.items() if name.startswith("media/table/")]
    assert json.loads(table)["data"] == [["def f():", " pass", True]]
    # Each only once, though both calls read all events.
    assert [alert["title"] for alert in run.alerts] == [
        "demo: crashed", "demo: stopped, everything saved", "demo: finished",
    ]  # fmt: skip
    _assert_no_key(root)


def test_sync_is_refused_while_a_follower_feeds_the_same_run(
    online: SessionBuilder, server: WandbServer, parent: subprocess.Popen[bytes]
) -> None:
    root = online.layout.root
    attempt = online.attempt()
    online.train(attempt, range(1, 3))
    start_follower(root, parent.pid)
    with pytest.raises(SessionBusyError, match="A follower feeds the run of"):
        sync_session(root, say=print)
    _finish(online, attempt)


@pytest.mark.extended("wandb starts several times")
def test_artifacts_are_uploaded_once_with_what_they_come_from(
    session: SessionBuilder, server: WandbServer
) -> None:
    root, layout = session.layout.root, session.layout
    session.configure(wandb={**ONLINE, "artifacts": ["checkpoints", "exports"]})
    attempt = session.attempt()
    session.train(attempt, range(1, 3))
    folders = {
        "pretrain": layout.phase("pretrain").checkpoints_dir / "step-00000002.a0001",
        "instruct": layout.exports_dir / "instruct",
    }
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        (folder / "weights.bin").write_bytes(name.encode())
    saved = {"phase": "pretrain", "checkpoint": "step-00000002.a0001"}
    session.event(attempt, "checkpoint_saved", **saved, final=False)
    session.event(attempt, "checkpoint_saved", **saved, final=True)
    session.event(attempt, "exported", phase="instruct")
    session.end(attempt)
    for _ in range(2):
        _sync(root)

    uploaded: dict[str, Any] = {}
    for artifact in server.artifacts:
        metadata = json.loads(artifact["metadata"] or "{}")
        uploaded[artifact["artifactCollectionName"]] = metadata
    assert list(uploaded) == ["demo-pretrain-checkpoint", "demo-instruct-model"]
    assert len(server.artifacts) == 2
    assert uploaded["demo-instruct-model"] == {
        "phase": "instruct",
        "attempt": 1,
        "session": "5e551017",
        "config_fingerprint": "f",
        "after": "pretrain",
        "weights_from": "previous",
    }
    assert {b"pretrain", b"instruct"} <= set(server.artifact_files.values())


def test_artifact_is_uploaded_again_when_its_upload_was_cut_off(
    session: SessionBuilder, server: WandbServer, parent: subprocess.Popen[bytes]
) -> None:
    root = session.layout.root
    session.configure(wandb={**ONLINE, "artifacts": ["exports"]})
    attempt = session.attempt()
    session.train(attempt, range(1, 3))
    folder = session.layout.exports_dir / "pretrain"
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"pretrain")
    session.event(attempt, "exported", phase="pretrain")
    server.keeps_artifacts_out = True
    start_follower(root, parent.pid)
    until(lambda: bool(server.artifacts) and server.num_refused > 0)
    follower = follower_of(root)
    for process in (follower, *follower.children(recursive=True)):
        process.kill()
        until_dead(process)
    assert b"pretrain" not in server.artifact_files.values()

    server.keeps_artifacts_out = False
    start_follower(root, parent.pid)
    _finish(session, attempt)
    assert b"pretrain" in server.artifact_files.values()
    num_artifacts = len(server.artifacts)
    # Whoever feeds the server next knows what it was told.
    _sync(root)
    assert len(server.artifacts) == num_artifacts
    assert [alert["title"] for alert in _run(server).alerts] == ["demo: finished"]


@pytest.mark.extended("wandb starts several times")
def test_artifact_that_the_server_refused_is_told_and_sent_by_the_next_sync(
    session: SessionBuilder, server: WandbServer
) -> None:
    root = session.layout.root
    session.configure(wandb={**ONLINE, "artifacts": ["exports"]})
    attempt = session.attempt()
    session.train(attempt, range(1, 3))
    folder = session.layout.exports_dir / "pretrain"
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"pretrain")
    session.event(attempt, "exported", phase="pretrain")
    session.end(attempt)
    server.refuses_artifacts = "over the storage limit"
    done = _run_sync(root)
    assert done.returncode == 1
    assert "model pretrain: " in done.stderr
    assert "over the storage limit" in done.stderr
    assert len(_run(server).rows) == 2
    assert not server.artifacts

    server.refuses_artifacts = ""
    for _ in range(2):
        _sync(root)
    assert len(server.artifacts) == 1
    assert b"pretrain" in server.artifact_files.values()


@pytest.mark.extended("wandb starts several times")
def test_follower_that_starts_during_a_sync_waits_for_its_end(
    online: SessionBuilder, server: WandbServer, parent: subprocess.Popen[bytes]
) -> None:
    root = online.layout.root
    attempt = online.attempt()
    online.train(attempt, range(1, 3))
    with in_place_of_follower(root, "wandb") as is_alone:
        assert is_alone
        start_follower(root, parent.pid)
        until(lambda: [_opened(process) for process in followers_of(root)] == [["follower.lock"]])
        time.sleep(1.0)
        assert len(followers_of(root)) == 1
        assert not server.operations
    until(lambda: bool(server.runs) and len(_run(server).rows) == 2)
    _finish(online, attempt)


def _opened(process: psutil.Process) -> list[str]:
    names = [Path(file.path).name for file in process.open_files()]
    return [name for name in names if name != "follower.log"]


def _sync(root: Path) -> str:
    """What `phaseline sync` says."""
    done = _run_sync(root)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run_sync(root: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as wandb leaves threads."""
    command = [sys.executable, "-m", "phaseline", "sync", str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _samples(phase: str, step: int) -> dict[str, Any]:
    return {
        "kind": "samples",
        "phase": phase,
        "phase_step": step,
        "global_step": step,
        "tokens": 0,
        "metrics": {},
        "timing": {"time": 1.76e9},
        "samples": [{"prompt": "def f():", "completion": " pass", "valid": True}],
    }


def test_sync_says_what_to_do_where_nobody_has_logged_in(
    online: SessionBuilder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    attempt = online.attempt()
    online.train(attempt, range(1, 4))
    online.end(attempt)
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"wandb refuses: No API key.* --offline for files"):
        sync_session(online.layout.root, say=print)


def test_sync_says_that_nothing_is_lost_where_nobody_answers(
    online: SessionBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = online.attempt()
    online.train(attempt, range(1, 4))
    online.end(attempt)
    # A port that nobody listens at; wandb itself would wait for half a minute.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    code = (
        "import sys; from phaseline.tracking import wandb_run; from phaseline.cli import main; "
        "wandb_run._LONGEST_START_S = 2.0; main(['sync', sys.argv[1]])"
    )
    command = [sys.executable, "-c", code, str(online.layout.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.FAILED
    assert "Traceback" not in done.stderr
    assert "does not answer" in done.stderr
    assert "Nothing is lost: the same command goes on" in done.stderr


def test_sync_claims_nothing_where_nothing_is_recorded(online: SessionBuilder) -> None:
    online.end(online.attempt())
    said: list[str] = []
    sync_session(online.layout.root, say=said.append)
    assert said == ["demo: nothing is recorded yet, so nothing was sent"]
