from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phaseline.cli import build_app
from phaseline.errors import UsageError
from phaseline.resilience.stack_watch import watching_for_stacks
from phaseline.session.attempts import take_attempt
from phaseline.session.layout import AttemptLayout, SessionLayout
from phaseline.session.stack_request import request_stacks, stacks_file

_PATIENCE_S = 30.0
# The main thread holds the interpreter in one long call into C, as a hanging kernel would.
_HANGING = """
import re, sys
from pathlib import Path
from phaseline.resilience.stack_watch import watching_for_stacks
from phaseline.session.layout import AttemptLayout

def hang():
    re.match(r"(a+)+$", "a" * 60 + "b")

with watching_for_stacks(AttemptLayout(1, Path(sys.argv[1])), 3):
    print("ready", flush=True)
    hang()
"""


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptLayout:
    return take_attempt(SessionLayout(tmp_path))


def _wait_for(path: Path, text: str, count: int = 1) -> str:
    deadline = time.monotonic() + _PATIENCE_S
    while path.read_text().count(text) < count:
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain for {text!r} in {path.read_text()!r}")
        time.sleep(0.05)
    return path.read_text()


def test_stacks_are_written_each_time_that_they_are_asked_for(attempt: AttemptLayout) -> None:
    request_stacks(attempt)  # of an earlier image: answered already
    path = stacks_file(attempt, 0)
    with watching_for_stacks(attempt, 0):
        assert path.read_text() == ""
        for count in (1, 2):
            request_stacks(attempt)
            text = _wait_for(path, "in test_stacks_are_written_each_time", count)
        assert text.count("-- ") == 2
        assert text.count("Thread 0x") >= 2


def test_stacks_are_written_on_a_signal_when_the_interpreter_is_held(
    attempt: AttemptLayout,
) -> None:
    command = [sys.executable, "-c", _HANGING, str(attempt.dir)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        text = ""
        deadline = time.monotonic() + _PATIENCE_S
        while "in hang" not in text and time.monotonic() < deadline:
            # The first may come before the call has begun.
            process.send_signal(signal.SIGQUIT)
            time.sleep(0.2)
            text = stacks_file(attempt, 3).read_text()
        assert "in hang" in text
        assert "stack_watch.py" in text
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_command_names_the_files_that_the_ranks_wrote(attempt: AttemptLayout) -> None:
    root = attempt.dir.parents[1]
    with watching_for_stacks(attempt, 0):
        answer = CliRunner().invoke(build_app(["stacks", "stop"]), ["stacks", str(root)])
    assert (answer.exit_code, answer.output) == (0, f"{stacks_file(attempt, 0)}\n")


def test_command_says_which_ranks_do_not_answer(attempt: AttemptLayout) -> None:
    root = attempt.dir.parents[1]
    with watching_for_stacks(attempt, 0):
        stacks_file(attempt, 1).touch()
        answer = CliRunner().invoke(build_app(["stacks", "stop"]), ["stacks", str(root)])
    assert answer.exit_code == 1
    assert "no answer yet from rank-00001" in answer.output


def test_command_is_refused_when_nothing_runs(tmp_path: Path) -> None:
    answer = CliRunner().invoke(build_app(["stacks", "stop"]), ["stacks", str(tmp_path)])
    assert isinstance(answer.exception, UsageError)
    assert "Nothing runs in" in str(answer.exception)
