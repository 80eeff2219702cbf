"""The follower against real wandb, offline; what it sent is read back from wandb's files."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from phaseline.errors import ExitCode
from phaseline.tracking.feed_problem import take_problem
from phaseline.tracking.follower import finish_feeding, start_follower, wait_for_follower
from phaseline.tracking.follower_lock import FeedState, LockOwner, open_lock, write_owner
from unit.tracking.followers import (
    PATIENCE_S,
    follower_of,
    followers_of,
    log_of,
    rows_of,
    until,
    until_dead,
)
from unit.tracking.session_builder import SessionBuilder


def test_follower_sends_every_record_once_when_killed_and_restarted_over_a_replay(
    session: SessionBuilder, parent: subprocess.Popen[bytes]
) -> None:
    first = session.attempt()
    session.train(first, range(1, 61))
    start_follower(session.layout.root, parent.pid)
    # Enough that wandb flushes a part of it and keeps the rest in memory.
    session.train(first, range(61, 301))
    until(lambda: bool(rows_of(session.layout.root)))
    follower = follower_of(session.layout.root)
    follower.kill()
    follower.wait()

    # The attempt dies too; the next one goes on at step 200 and trains the rest again.
    second = session.attempt((first, 200))
    start_follower(session.layout.root, parent.pid)
    session.train(second, range(201, 321))
    session.append(second, [_samples_record(session.phases[0], 320)])
    session.end(second)

    assert wait_for_follower(session.layout.root, PATIENCE_S), log_of(session.layout.root)
    rows = rows_of(session.layout.root)
    assert [row["_step"] for row in rows] == [*range(5, 1601, 5), 1602]
    assert [row["global_step"] for row in rows] == [*range(1, 321), 320]
    assert rows[10]["pretrain/train/lr"] == 1e-3
    assert rows[10]["_timestamp"] == 1.76e9 + 11
    assert rows[-1]["pretrain/samples/text.nrows"] == 2
    assert len(list((session.layout.root / "wandb").glob("*run-*-runid123"))) == 2


@pytest.mark.extended("wandb starts several times")
def test_run_has_each_step_once_when_a_restart_drops_or_adds_validations(
    session: SessionBuilder, parent: subprocess.Popen[bytes]
) -> None:
    root = session.layout.root
    first = session.attempt()
    session.train(first, range(1, 11))
    session.validate(first, 10)
    session.train(first, range(11, 31))
    session.validate(first, 30)
    session.train(first, range(31, 40))
    start_follower(root, parent.pid)
    until(lambda: bool(rows_of(root)))
    session.end(first, ExitCode.STOPPED, "SIGTERM")
    assert wait_for_follower(root, PATIENCE_S), log_of(root)

    # It stands on step 25, and validates no more; the one after it at every fifth step.
    second = session.attempt((first, 26))
    session.train(second, range(26, 43))
    start_follower(root, parent.pid)
    session.end(second, ExitCode.STOPPED, "SIGTERM")
    assert wait_for_follower(root, PATIENCE_S), log_of(root)
    third = session.attempt((first, 26), (second, 14))
    for step in range(40, 46):
        session.train(third, range(step, step + 1))
        if step % 5 == 0:
            session.validate(third, step)
    start_follower(root, parent.pid)
    session.end(third)
    assert wait_for_follower(root, PATIENCE_S), log_of(root)

    rows = rows_of(root)
    trained = [row["global_step"] for row in rows if "pretrain/train/loss" in row]
    assert trained == list(range(1, 46))
    validated = [row["global_step"] for row in rows if "pretrain/validation/loss" in row]
    # The one of step 40 comes too late: wandb has steps 41 and 42.
    assert validated == [10, 30, 45]


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
        until((root / "second-image").exists)
        session.train(attempt, range(1, 4))
        until(lambda: any((root / "wandb").glob("*run-*")))
        assert len(followers_of(root)) == 1
        # Signals to a whole job reach it as well; it must not mind.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            follower_of(root).send_signal(number)
        session.train(attempt, range(4, 7))
    finally:
        # No outcome is left: its death alone must end the follower.
        process.kill()
        process.wait()

    assert wait_for_follower(root, PATIENCE_S), log_of(root)
    assert [row["global_step"] for row in rows_of(root)] == list(range(1, 7))
    assert len(list((root / "wandb").glob("*run-*-runid123"))) == 1


@pytest.mark.extended("wandb starts several times")
def test_follower_goes_on_in_a_new_process_when_wandb_breaks_down(
    session: SessionBuilder, parent: subprocess.Popen[bytes]
) -> None:
    root = session.layout.root
    attempt = session.attempt()
    session.train(attempt, range(1, 301))
    start_follower(root, parent.pid)
    until(lambda: bool(rows_of(root)))
    for child in follower_of(root).children():
        child.kill()
        until_dead(child)
    session.train(attempt, range(301, 311))
    # What is written to a wandb that just died may seem sent; at the latest the end tells.
    session.end(attempt)

    assert wait_for_follower(root, PATIENCE_S), log_of(root)
    assert "a new follower goes on" in log_of(root)
    assert [row["global_step"] for row in rows_of(root)] == list(range(1, 311))


def test_follower_of_a_new_parent_waits_when_the_one_before_still_sends(
    session: SessionBuilder, parent: subprocess.Popen[bytes]
) -> None:
    root = session.layout.root
    session.train(session.attempt(), range(1, 4))
    start_follower(root, parent.pid)
    start_follower(root, os.getpid())
    until(lambda: len(followers_of(root)) == 2)

    # Step 3 is trained again: whichever follower comes first sends it, the other skips it.
    second = session.attempt((1, 2))
    session.train(second, range(3, 6))
    session.end(second)

    assert wait_for_follower(root, PATIENCE_S), log_of(root)
    assert [row["_step"] for row in rows_of(root)] == [5, 10, 15, 20, 25]


def test_follower_is_replaced_when_it_was_killed_and_still_holds_its_lock(
    session: SessionBuilder, parent: subprocess.Popen[bytes]
) -> None:
    root = session.layout.root
    attempt = session.attempt()
    session.train(attempt, range(1, 4))
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    # Its threads are not all gone yet: here this test holds what they would.
    lock = open_lock(root, "wandb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    write_owner(lock, LockOwner(parent.pid, killed.pid, FeedState.FEEDING))
    starting = threading.Thread(target=start_follower, args=(root, parent.pid))
    starting.start()
    starting.join(0.5)
    assert starting.is_alive()
    assert followers_of(root) == []

    os.close(lock)
    starting.join()
    session.end(attempt)
    assert wait_for_follower(root, PATIENCE_S), log_of(root)
    assert [row["_step"] for row in rows_of(root)] == [5, 10, 15]


def test_end_of_a_session_sends_everything_when_the_follower_is_killed_at_the_end(
    session: SessionBuilder,
) -> None:
    root = session.layout.root
    attempt = session.attempt()
    start_follower(root)
    session.train(attempt, range(1, 4))
    follower_of(root).kill()
    session.end(attempt)
    assert finish_feeding(root, PATIENCE_S, attempt=attempt), log_of(root)
    assert [row["_step"] for row in rows_of(root)] == [5, 10, 15]


def test_end_of_a_session_waits_for_no_follower_that_gave_up(session: SessionBuilder) -> None:
    root = session.layout.root
    attempt = session.attempt()
    session.train(attempt, range(1, 3))
    session.layout.config_file.write_text("format: 2\nphases: 3\n", encoding="utf-8")
    start_follower(root)
    session.end(attempt)
    assert finish_feeding(root, PATIENCE_S, attempt=attempt)
    assert len(log_of(root).splitlines()) == 1


def test_follower_leaves_one_line_when_wandb_fails(
    session: SessionBuilder, parent: subprocess.Popen[bytes]
) -> None:
    root = session.layout.root
    attempt = session.attempt()
    session.train(attempt, range(1, 3))
    session.layout.config_file.write_text("format: 2\nphases: 3\n", encoding="utf-8")
    start_follower(root, parent.pid)

    assert wait_for_follower(root, PATIENCE_S)
    lines = log_of(root).splitlines()
    assert len(lines) == 1
    why = f"SessionFormatError: {session.layout.config_file}, which the session runs with, is no"
    assert f"the feed to wandb broke, the records stay in the session: {why}" in lines[0]
    problem = take_problem(root, "wandb")
    assert problem.startswith(f"wandb is not fed: {session.layout.config_file}, which the session")
    assert problem.endswith(f"`phaseline sync {root}` sends them.")
    assert take_problem(root, "wandb") == ""


def test_start_follower_only_warns_when_it_cannot_start(session: SessionBuilder) -> None:
    (session.layout.root / "wandb").write_text("in the way")
    with pytest.warns(RuntimeWarning, match="wandb is not fed, the records stay in"):
        problem = start_follower(session.layout.root)
    assert problem.startswith("wandb is not fed")


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
