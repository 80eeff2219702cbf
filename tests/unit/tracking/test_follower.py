"""The follower against real wandb, offline; what it sent is read back from wandb's files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from phaseline.tracking.follower import start_follower, wait_for_follower
from phaseline.tracking.wandb_files import read_wandb_file
from unit.tracking.session_builder import SessionBuilder

_PATIENCE_S = 30.0


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def test_follower_sends_every_record_once_when_killed_and_restarted_over_a_replay(
    session: SessionBuilder, parent: subprocess.Popen[bytes]
) -> None:
    first = session.attempt()
    session.train(first, range(1, 61))
    start_follower(session.layout.root, parent.pid)
    # Enough that wandb flushes a part of it and keeps the rest in memory.
    session.train(first, range(61, 301))
    _until(lambda: bool(_rows(session.layout.root)))
    follower = _follower(session.layout.root)
    follower.kill()
    follower.wait()

    # The attempt dies too; the next one goes on at step 200 and trains the rest again.
    second = session.attempt((first, 200))
    start_follower(session.layout.root, parent.pid)
    session.train(second, range(201, 321))
    session.append(second, [_samples_record(session.phases[0], 320)])
    session.end(second)

    assert wait_for_follower(session.layout.root, _PATIENCE_S), _log(session.layout.root)
    rows = _rows(session.layout.root)
    assert [row["_step"] for row in rows] == list(range(321))
    assert [row["global_step"] for row in rows] == [*range(1, 321), 320]
    assert rows[10]["pretrain/train/lr"] == 1e-3
    assert rows[10]["_timestamp"] == 1.76e9 + 11
    assert rows[-1]["pretrain/samples/text.nrows"] == 2
    assert len(list((session.layout.root / "wandb").glob("*run-*-runid123"))) == 2


def test_follower_lives_on_and_is_not_doubled_when_its_parent_execs(
    session: SessionBuilder, tmp_path: Path
) -> None:
    attempt = session.attempt()
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from phaseline.tracking.follower import start_follower\n"
        "start_follower(Path(sys.argv[1]))\n"
        "if sys.argv[2] == 'first':\n"
        "    os.execv(sys.executable, [sys.executable, *sys.argv[:2], 'second'])\n"
        "Path(sys.argv[1], 'second-image').touch()\n"
        "time.sleep(600)\n"
    )
    root = session.layout.root
    process = subprocess.Popen([sys.executable, str(script), str(root), "first"])
    try:
        _until((root / "second-image").exists)
        session.train(attempt, range(1, 4))
        _until(lambda: any((root / "wandb").glob("*run-*")))
        assert len(_followers(root)) == 1
        # Signals to a whole job reach it as well; it must not mind.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            _follower(root).send_signal(number)
        session.train(attempt, range(4, 7))
    finally:
        # No outcome is left: its death alone must end the follower.
        process.kill()
        process.wait()

    assert wait_for_follower(root, _PATIENCE_S), _log(root)
    assert [row["global_step"] for row in _rows(root)] == list(range(1, 7))
    assert len(list((root / "wandb").glob("*run-*-runid123"))) == 1


def test_follower_goes_on_in_a_new_process_when_wandb_breaks_down(
    session: SessionBuilder, parent: subprocess.Popen[bytes]
) -> None:
    root = session.layout.root
    attempt = session.attempt()
    session.train(attempt, range(1, 301))
    start_follower(root, parent.pid)
    _until(lambda: bool(_rows(root)))
    for child in _follower(root).children():
        child.kill()
        _until_dead(child)
    session.train(attempt, range(301, 311))
    # What is written to a wandb that just died may seem sent; at the latest the end tells.
    session.end(attempt)

    assert wait_for_follower(root, _PATIENCE_S), _log(root)
    assert "a new follower goes on" in _log(root)
    assert [row["global_step"] for row in _rows(root)] == list(range(1, 311))


def test_follower_of_a_new_parent_waits_when_the_one_before_still_sends(
    session: SessionBuilder, parent: subprocess.Popen[bytes]
) -> None:
    root = session.layout.root
    session.train(session.attempt(), range(1, 4))
    start_follower(root, parent.pid)
    start_follower(root, os.getpid())
    _until(lambda: len(_followers(root)) == 2)

    # Step 3 is trained again: whichever follower comes first sends it, the other skips it.
    second = session.attempt((1, 2))
    session.train(second, range(3, 6))
    session.end(second)

    assert wait_for_follower(root, _PATIENCE_S), _log(root)
    assert [row["_step"] for row in _rows(root)] == list(range(5))


def test_follower_leaves_one_line_when_wandb_fails(
    session: SessionBuilder, parent: subprocess.Popen[bytes]
) -> None:
    root = session.layout.root
    attempt = session.attempt()
    session.train(attempt, range(1, 3))
    session.layout.config_file.write_text("phases: 3\n", encoding="utf-8")
    start_follower(root, parent.pid)

    assert wait_for_follower(root, _PATIENCE_S)
    lines = _log(root).splitlines()
    assert len(lines) == 1
    assert (
        "the feed to wandb broke, the records stay in the session: SessionError: config.yaml"
        in lines[0]
    )


def test_start_follower_only_warns_when_it_cannot_start(session: SessionBuilder) -> None:
    (session.layout.root / "wandb").write_text("in the way")
    with pytest.warns(RuntimeWarning, match="wandb is not fed, the records stay in"):
        start_follower(session.layout.root)


def _samples_record(phase: str, step: int) -> dict[str, Any]:
    return {
        "kind": "samples",
        "phase": phase,
        "phase_step": step,
        "global_step": step,
        "tokens": 0,
        "metrics": {f"{phase}/samples/python_valid_frac": "nan"},
        "timing": {"time": 1.76e9},
        "samples": [
            {"prompt": "def f():", "completion": " pass", "valid": True},
            {"prompt": "def g():", "completion": " (", "valid": None},
        ],
    }


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("waited in vain")
        time.sleep(0.05)


def _rows(root: Path) -> list[dict[str, Any]]:
    """Every history row of the session's run, over all of its files, in the order sent."""
    import json

    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for path in sorted((root / "wandb").glob("*run-*/*.wandb")):
        for payload in read_wandb_file(path):
            history = Record.FromString(payload).history
            if history.item:
                rows.append(
                    {
                        i.key or ".".join(i.nested_key): json.loads(i.value_json)
                        for i in history.item
                    }
                )
    return rows


def _followers(root: Path) -> list[psutil.Process]:
    found: dict[psutil.Process, int] = {}
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if "phaseline.tracking.follower" in words and str(root) in words:
                found[process] = process.ppid()
        except psutil.Error:
            continue
    # A follower that is about to start a process of wandb's looks like two for a moment.
    pids = {process.pid for process in found}
    return [process for process, ppid in found.items() if ppid not in pids]


def _follower(root: Path) -> psutil.Process:
    (process,) = _followers(root)
    return process


def _until_dead(process: psutil.Process) -> None:
    _until(lambda: not _lives(process))


def _lives(process: psutil.Process) -> bool:
    """Whether it runs; one that only waits for its parent to take note does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _log(root: Path) -> str:
    return (root / "wandb" / "follower.log").read_text(encoding="utf-8")
