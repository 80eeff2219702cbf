"""Being asked to stop: the handlers of signals only set a flag. No torch."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from phaseline.session import linux
from phaseline.session.second_press import Press, SecondPress

STOP_SIGNALS = linux.STOP_SIGNALS


class StopFlag:
    """Whether this process was asked to stop. The handlers only set the flag.

    A second Ctrl-C within two seconds leaves at once: it raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        """Starts unset; nothing is installed."""
        self._signal: int | None = None
        self._request = ""
        self._look: Callable[[], str] = _nobody_asks
        self._presses = SecondPress()
        self._before: dict[signal.Signals, Any] = {}

    @property
    def is_set(self) -> bool:
        """Whether a stop was asked for, by a signal or by whatever is watched."""
        if self._signal is None and not self._request:
            self._request = self._look()
        return self._signal is not None or bool(self._request)

    @property
    def number(self) -> int | None:
        """The signal that asked, or None."""
        return self._signal

    @property
    def reason(self) -> str:
        """What asked, for people."""
        return self._request if self._signal is None else signal.Signals(self._signal).name

    def listen(self) -> None:
        """Installs the handlers, then lets in what came while nobody could listen."""
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._on_signal)
                for number in STOP_SIGNALS
                # With nohup somebody chose that a closed terminal is no matter.
                if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN)
            }
            linux.unblock_stop_signals()

    def ignore(self) -> None:
        """Gives the signals back to whoever handled them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @contextmanager
    def watching(self, look: Callable[[], str]) -> Iterator[None]:
        """Also asks `look`, as long as the block lives, each time that somebody asks the flag.

        Args:
            look: Returns who asks for a stop, or an empty text. It is called at every step, so
                it must cost next to nothing.
        """
        self._look = look
        try:
            yield
        finally:
            self._look = _nobody_asks

    def set(self, number: int = signal.SIGTERM) -> None:
        """Asks for a stop from inside the process."""
        self._signal = self._signal or number

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.set(number)
        if number == signal.SIGINT and self._presses.count() is Press.SECOND:
            raise KeyboardInterrupt(
                "a second Ctrl-C: left at once; what came after the last save is lost"
            )


@contextmanager
def listening(flag: StopFlag | None) -> Iterator[StopFlag]:
    """Gives a flag that listens: the caller's own, or one that lives as long as the block."""
    if flag is not None:
        yield flag
        return
    own = StopFlag()
    own.listen()
    try:
        yield own
    finally:
        own.ignore()


def _nobody_asks() -> str:
    """Takes the place of a look where nothing is watched."""
    return ""
