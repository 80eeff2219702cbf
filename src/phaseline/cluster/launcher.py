"""Running the ranks' launcher as a child: signals on the way in, a verdict on the way out.

The tree is `phaseline launch` > accelerate (which hosts torch's agent) > one process per
rank. Each dies with its parent, so that no kill of any of them leaves ranks that train on.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import psutil

from phaseline.cluster.launch_command import LaunchCommand
from phaseline.cluster.refusal import REFUSAL_VARIABLE, read_refusal
from phaseline.cluster.verdict import judge, newest_attempt
from phaseline.errors import ExitCode
from phaseline.session import linux
from phaseline.session.layout import SessionLayout
from phaseline.session.second_press import PAIR_S, Press, SecondPress

_STOP_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_LEAVE_HINT = f"Ctrl-C twice within {PAIR_S:g} s leaves at once, without saving."


def launch(
    command: LaunchCommand, layout: SessionLayout, *, say: Callable[[str], None]
) -> ExitCode:
    """Runs the ranks until they end, and tells a person how that was.

    Args:
        command: What starts the ranks.
        layout: The directory of the session that they run.
        say: Shows a text to a person.

    Returns:
        The exit code of the session's newest attempt.
    """
    since = newest_attempt(layout)
    with TemporaryDirectory(prefix="phaseline-") as folder:
        refusal_file = Path(folder) / "refusal"
        command.environment[REFUSAL_VARIABLE] = str(refusal_file)
        launcher = Launcher(command, say=say)
        launcher.run()
        refusal = read_refusal(refusal_file)
    verdict = judge(
        layout,
        since=since,
        stop_requested=launcher.stop_requested,
        left_at_once=launcher.left_at_once,
        refusal=refusal,
    )
    say(verdict.message)
    return verdict.code


class Launcher:
    """One run of `accelerate launch`. Lives in the main thread, which owns the signals."""

    def __init__(self, command: LaunchCommand, *, say: Callable[[str], None]) -> None:
        self._command = command
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._presses = SecondPress()
        self.stop_requested = False
        """Whether a signal has asked the ranks to stop."""
        self.left_at_once = False
        """Whether a second Ctrl-C has killed them."""

    def run(self) -> None:
        """Starts the ranks and returns when their launcher has ended."""
        with self._listening():
            process = subprocess.Popen(
                self._command.argv,
                env=self._command.environment,
                stdin=subprocess.DEVNULL,
                # A Ctrl-C at the terminal reaches us alone: the agent would meet it by
                # killing the ranks, which we ask to save first.
                start_new_session=True,
                preexec_fn=partial(_prepare_child, os.getpid()),
            )
            self._process = process
            if self.stop_requested:
                self._ask_to_stop(process)
            process.wait()

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Handles the stop signals, except those that somebody chose to ignore (nohup)."""
        before = {
            number: signal.signal(number, self._on_signal)
            for number in _STOP_SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                # Whoever left at once may still be pressing: the verdict is not to be cut off.
                is_pressed = number == signal.SIGINT and self.left_at_once
                signal.signal(number, signal.SIG_IGN if is_pressed else handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        press = self._presses.count() if number == signal.SIGINT else None
        if not self.stop_requested:
            self.stop_requested = True
            self._say(
                f"{signal.Signals(number).name}: stopping, saving at the next step. {_LEAVE_HINT}"
            )
            if self._process is not None:
                self._ask_to_stop(self._process)
        elif press is Press.FIRST:
            self._say(f"Still stopping. {_LEAVE_HINT}")
        elif press is Press.SECOND:
            self.left_at_once = True
            if self._process is not None:
                _kill(self._process)

    @staticmethod
    def _ask_to_stop(process: subprocess.Popen[bytes]) -> None:
        # To the ranks, not to the agent: the agent would end with a failure although every
        # rank saved, and would kill those that take long.
        ranks = _ranks_of(process)
        for rank in ranks:
            with suppress(psutil.Error):
                rank.terminate()
        if not ranks:
            process.terminate()


def _prepare_child(parent_pid: int) -> None:
    """Between fork and exec of the child: it dies with us, and is deaf to user signals."""
    linux.die_with_parent()
    if os.getppid() != parent_pid:
        os._exit(1)  # the parent died before this process asked to die with it
    # SLURM may send these to every process of a job; they would kill the agent, and its
    # ranks with it. Blocked, they wait: a rank lets them in when it can listen.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGUSR2))


def _ranks_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    ranks = []
    with suppress(psutil.Error):
        for child in psutil.Process(process.pid).children():
            with suppress(psutil.Error):
                if "LOCAL_RANK" in child.environ():
                    ranks.append(child)
    return ranks


def _kill(process: subprocess.Popen[bytes]) -> None:
    ranks = _ranks_of(process)
    process.kill()
    for rank in ranks:
        # Each rank leads a group of its own, with its loader's workers. What feeds wandb
        # has left that group, and goes on to send what was recorded.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(rank.pid, signal.SIGKILL)
