"""Running the ranks' launcher as a child: signals on the way in, a verdict on the way out.

The tree is `phaseline launch` > accelerate (which hosts torch's agent) > one process per
rank. Each dies with its parent, so that no kill of any of them leaves ranks that train on.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import NamedTuple

import psutil

from phaseline.cluster.agent import AGENT_VARIABLE
from phaseline.cluster.agent_output import AgentOutput
from phaseline.cluster.agent_record import keep_agent_output, record_left_at_once
from phaseline.cluster.launch_command import LaunchCommand
from phaseline.cluster.refusal import REFUSAL_VARIABLE, last_words, read_refusal
from phaseline.cluster.verdict import judge, newest_attempt
from phaseline.errors import ExitCode
from phaseline.session import linux
from phaseline.session.attempts import read_error
from phaseline.session.layout import SessionLayout
from phaseline.session.second_press import LEAVE_HINT, Press, SecondPress
from phaseline.session.temporary import own_temporary_folder

_LOOK_EVERY_S = 0.5
_LAST_WORDS_S = 5.0


class Launch(NamedTuple):
    """How one start ended.

    Attributes:
        code: The exit code of the session's newest attempt.
        was_interrupted: Whether somebody asked for the end.
    """

    code: ExitCode
    was_interrupted: bool


def launch(
    command: LaunchCommand,
    layout: SessionLayout,
    *,
    say: Callable[[str], None],
    flash: Callable[[str], None] | None = None,
) -> Launch:
    """Runs the ranks until they end, and tells a person how that was.

    Args:
        command: What starts the ranks.
        layout: The directory of the session that they run.
        say: Shows a text to a person.
        flash: Shows a line while the ranks draw on the same terminal; None: as `say`.
    """
    since = newest_attempt(layout)
    with own_temporary_folder() as folder:
        refusal_file = folder / "refusal"
        command.environment[REFUSAL_VARIABLE] = str(refusal_file)
        launcher = Launcher(command, flash=flash or say)
        code = launcher.run()
        unrecorded = last_words(refusal_file)
        host = socket.gethostname()
        if launcher.left_at_once:
            record_left_at_once(layout, since=since, host=host)
        elif read_error(unrecorded) is None:
            keep_agent_output(launcher.output, code, layout, since=since, host=host)
        verdict = judge(
            layout,
            since=since,
            stop_requested=launcher.stop_requested,
            left_at_once=launcher.left_at_once,
            refusal=read_refusal(refusal_file),
            death=launcher.output.first_death,
            unrecorded=unrecorded,
        )
    if verdict.code is ExitCode.FAILED and launcher.output.own_trouble:
        say(launcher.output.own_trouble.rstrip())
    say(verdict.message)
    return Launch(verdict.code, launcher.stop_requested or launcher.left_at_once)


class Launcher:
    """One run of `accelerate launch`. Lives in the main thread, which owns the signals."""

    def __init__(
        self,
        command: LaunchCommand,
        *,
        flash: Callable[[str], None],
        is_told_alone: bool = True,
    ) -> None:
        """Takes what is run.

        Args:
            command: What starts the ranks.
            flash: Shows a line while the ranks run.
            is_told_alone: Whether a stop signal reaches this process only. SLURM sends them to
                every process of a step; then the agent, which would end with a failure and
                kill ranks that take long to save, must not hear of it.
        """
        self._command = command
        self._flash = flash
        self._is_told_alone = is_told_alone
        # The agent hears SIGTERM alone: it ends while there are no ranks that could.
        self._blocked = [
            number for number in linux.STOP_SIGNALS if number != signal.SIGTERM or not is_told_alone
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._presses = SecondPress()
        self._told: set[int] = set()
        self._number = signal.SIGTERM
        self._ended = threading.Event()
        self.stop_requested = False
        """Whether a signal has asked the ranks to stop."""
        self.left_at_once = False
        """Whether a second Ctrl-C has killed them."""
        self.output = AgentOutput()
        """What torch's agent says; the ranks' own output goes where this process's goes."""

    def run(self) -> int:
        """Starts the ranks and returns their launcher's exit code; -N: signal N ended it."""
        with self._listening(), self._reading() as agent_fd:
            process = subprocess.Popen(
                self._command.argv,
                env={**self._command.environment, AGENT_VARIABLE: str(agent_fd)},
                stdin=subprocess.DEVNULL,
                pass_fds=(agent_fd,),
                # A Ctrl-C at the terminal reaches us alone: the agent would meet it by
                # killing the ranks, which we ask to save first.
                start_new_session=True,
                preexec_fn=partial(_prepare_child, os.getpid(), self._blocked),
            )
            self._process = process
            if self.stop_requested:
                self._ask_to_stop(process)
            code = process.wait()
            self._ended.set()
            return code

    @contextmanager
    def _reading(self) -> Iterator[int]:
        """Reads what the agent writes to the descriptor that is yielded."""
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as stream:
            thread = threading.Thread(target=self.output.read, args=(stream,), daemon=True)
            thread.start()
            try:
                yield writer
            finally:
                os.close(writer)
                thread.join(_LAST_WORDS_S)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Handles the stop signals, except those that somebody chose to ignore (nohup)."""
        before = {
            number: signal.signal(number, self._on_signal)
            for number in linux.STOP_SIGNALS
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
            # A rank puts on record what it was sent; SLURM's own SIGINT to it is no press.
            if self._is_told_alone or number != signal.SIGINT:
                self._number = signal.Signals(number)
            what = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            who = "" if number == signal.SIGINT else "Ctrl-C "
            hint = f"; {who}{LEAVE_HINT}" if self._is_told_alone else ""
            self._flash(f"{what}: saves at the next step{hint}")
            if self._process is not None:
                self._ask_to_stop(self._process)
        elif press is Press.FIRST:
            self._flash(f"Still saving; Ctrl-C {LEAVE_HINT}")
        elif press is Press.SECOND:
            self.left_at_once = True
            if self._process is not None:
                _kill(self._process)

    def _ask_to_stop(self, process: subprocess.Popen[bytes]) -> None:
        self._tell_ranks(process)
        if not self._told and self._is_told_alone:
            process.terminate()
            return
        thread = threading.Thread(target=self._tell_late_ranks, args=(process,), daemon=True)
        thread.start()

    def _tell_late_ranks(self, process: subprocess.Popen[bytes]) -> None:
        """A rank may be started after the others were told."""
        while not self._ended.wait(_LOOK_EVERY_S):
            self._tell_ranks(process)

    def _tell_ranks(self, process: subprocess.Popen[bytes]) -> None:
        # To the ranks, each once, and not to the agent: the agent would end with a failure
        # although every rank saved, and would kill those that take long.
        for rank in _ranks_of(process):
            if rank.pid not in self._told:
                self._told.add(rank.pid)
                with suppress(psutil.Error):
                    rank.send_signal(self._number)


def _prepare_child(parent_pid: int, blocked: Sequence[signal.Signals]) -> None:
    """Between fork and exec of the child: it dies with us, and is deaf to some signals."""
    linux.die_with_parent()
    if os.getppid() != parent_pid:
        os._exit(1)  # the parent died before this process asked to die with it
    # They would kill the agent, and its ranks with it. Blocked, they wait: a rank lets them
    # in when it can listen.
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)


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
