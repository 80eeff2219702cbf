"""Real launchers over real accelerate, with ranks that only wait: each start costs seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from phaseline.errors import ExitCode
from phaseline.session.attempts import read_error
from phaseline.session.layout import SessionLayout

pytestmark = pytest.mark.distributed

DEADLINE_S = 120.0

RANK = """
import os, signal, sys, time
from pathlib import Path
from phaseline.errors import ExitCode
from phaseline.session import linux
from phaseline.session.attempts import Outcome, take_attempt, write_outcome
from phaseline.session.layout import SessionLayout

linux.die_with_parent()
layout, mode = SessionLayout(Path(sys.argv[1])), sys.argv[2]
rank = int(os.environ["RANK"])
attempt = take_attempt(layout) if rank == 0 else None
stops = []
for number in linux.STOP_SIGNALS:
    signal.signal(number, lambda number, _: stops.append(signal.Signals(number).name))
linux.unblock_stop_signals()
layout.root.mkdir(parents=True, exist_ok=True)
ready = layout.root / f"ready-{rank}"
ready.with_suffix(".new").write_text(f"{os.getpid()} {os.getppid()}")
ready.with_suffix(".new").rename(ready)
if mode == "leaves" and rank == 1:
    while not (layout.root / "ready-0").exists():  # the attempt has begun
        time.sleep(0.02)
    os._exit(5)
while not stops or mode == "deaf":
    time.sleep(0.02)
(layout.root / f"stops-{rank}").write_text(str(len(stops)))
if attempt is not None and mode != "leaves":
    write_outcome(attempt, Outcome(code=ExitCode.STOPPED, reason=f"asked by {stops[0]}", time=time.time()))
"""

LAUNCHER = """
import sys
from pathlib import Path
from phaseline.cluster.launch_command import LaunchCommand, build_launch_command
from phaseline.cluster.launcher import launch
from phaseline.session.layout import SessionLayout

rank, session, mode = sys.argv[1:]
built = build_launch_command(Path("unused"), num_processes=2, has_gpu=False)
argv = [*built.argv[: built.argv.index("-m", 2)], rank, session, mode]
say = lambda text: print(text, flush=True)
if mode == "misled":
    argv[3:3] = ["--no_such_option"]
command = LaunchCommand(argv, built.environment)
sys.exit(launch(command, SessionLayout(Path(session)), say=say).code)
"""


class Job:
    """A launcher with two ranks, and what a test needs to know of it."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.session = folder / "session"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        (folder / "rank.py").write_text(RANK)
        (folder / "launcher.py").write_text(LAUNCHER)
        self.process = subprocess.Popen(
            [sys.executable, "launcher.py", "rank.py", str(self.session), mode],
            cwd=folder,
            env={**os.environ, "TMPDIR": str(self.temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._tree: set[psutil.Process] = set()

    def wait_for_ranks(self) -> None:
        _wait_until(lambda: all((self.session / f"ready-{rank}").exists() for rank in range(2)))
        self._tree = set(psutil.Process(self.process.pid).children(recursive=True))

    def wait_for_children(self) -> None:
        _wait_until(lambda: bool(psutil.Process(self.process.pid).children()))

    def end(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, output

    def require_no_survivor(self) -> None:
        assert len(self._tree) >= 3, "accelerate and two ranks"
        _, alive = psutil.wait_procs(self._tree, timeout=DEADLINE_S)
        assert alive == []

    def kill(self) -> None:
        for process in self._tree:
            if process.is_running():
                process.kill()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def _wait_until(is_true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_true():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Job]]:
    jobs: list[Job] = []

    def start_job(mode: str) -> Job:
        jobs.append(Job(tmp_path, mode))
        return jobs[-1]

    yield start_job
    for job in jobs:
        job.kill()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGUSR1, "SIGUSR1: saves at the next step; Ctrl-C twice in 2 s leaves at once"),
        (signal.SIGINT, "Ctrl-C: saves at the next step; twice in 2 s leaves at once"),
    ],
)
def test_launcher_asks_every_rank_once_with_the_signal_that_it_gets(
    start: Callable[[str], Job], number: signal.Signals, said: str
) -> None:
    job = start("obedient")
    job.wait_for_ranks()
    job.process.send_signal(number)
    code, output = job.end()
    assert code == ExitCode.STOPPED
    assert list(job.temporary.iterdir()) == []
    assert said in output
    assert f"Everything is saved: asked by {number.name}" in output
    assert [(job.session / f"stops-{rank}").read_text() for rank in range(2)] == ["1", "1"]
    job.require_no_survivor()


def test_launcher_leaves_at_once_when_interrupted_twice(start: Callable[[str], Job]) -> None:
    job = start("deaf")
    job.wait_for_ranks()
    job.process.send_signal(signal.SIGINT)
    # The second press counts only some time after the first, so it is repeated.
    while job.process.poll() is None:
        time.sleep(0.1)
        job.process.send_signal(signal.SIGINT)
    code, output = job.end()
    assert code == ExitCode.FAILED
    assert "Left at once" in output
    error = read_error(SessionLayout(job.session).attempt(1))
    assert error is not None
    assert (error.kind, error.message) == ("Killed", "left at once on a second Ctrl-C")
    job.require_no_survivor()


def test_launcher_says_which_rank_died_and_keeps_the_agents_words_in_a_log(
    start: Callable[[str], Job],
) -> None:
    job = start("leaves")
    code, output = job.end()
    assert code == ExitCode.FAILED
    assert output.splitlines()[0] == "Attempt 1 failed."
    assert "rank 1 on" in output
    assert "Ended: ended with exit code 5" in output
    log = SessionLayout(job.session).attempt(1).launcher_log(0)
    assert "ChildFailedError" in log.read_text()
    assert f"launcher {log}" in output
    assert len(output.splitlines()) < 8, output


def test_launcher_passes_on_what_the_agent_says_when_it_fails_by_itself(
    start: Callable[[str], Job],
) -> None:
    code, output = start("misled").end()
    assert code == ExitCode.FAILED
    assert "no_such_option" in output
    assert "before they began an attempt" in output


def test_no_process_is_left_when_the_launcher_is_killed(start: Callable[[str], Job]) -> None:
    job = start("deaf")
    job.wait_for_ranks()
    job.process.kill()
    job.process.wait()
    job.require_no_survivor()


def test_launcher_reports_a_stop_when_no_rank_has_started(start: Callable[[str], Job]) -> None:
    job = start("obedient")
    job.wait_for_children()
    job.process.send_signal(signal.SIGTERM)
    code, output = job.end()
    assert code == ExitCode.STOPPED
    assert "Stopped before anything was begun" in output
