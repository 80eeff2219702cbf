from __future__ import annotations

import os
import signal
import threading

import pytest

from phaseline.resilience.stop_flag import STOP_SIGNALS, StopFlag, listening
from phaseline.session import linux


def test_flag_is_unset_until_it_is_asked() -> None:
    flag = StopFlag()
    assert (flag.is_set, flag.reason, flag.number) == (False, "", None)
    flag.set()
    assert (flag.is_set, flag.reason, flag.number) == (True, "SIGTERM", signal.SIGTERM)


def test_flag_keeps_the_first_reason() -> None:
    flag = StopFlag()
    flag.set(signal.SIGUSR1)
    flag.set(signal.SIGTERM)
    assert flag.reason == "SIGUSR1"


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_listening_flag_is_set_by_every_stop_signal(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with listening(None) as flag:
        os.kill(os.getpid(), number)
        assert flag.reason == number.name
    assert signal.getsignal(number) is before


def test_listening_flag_hears_what_came_while_signals_were_blocked() -> None:
    linux.block_stop_signals()
    try:
        # To this thread: with libraries loaded, another one might take it.
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)
        with listening(None) as flag:
            assert flag.reason == "SIGUSR2"
    finally:
        linux.unblock_stop_signals()


def test_listening_leaves_a_flag_of_the_callers_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    mine = StopFlag()
    with listening(mine) as flag:
        assert flag is mine
        assert signal.getsignal(signal.SIGTERM) is before


def test_listening_installs_nothing_when_it_is_not_the_main_thread() -> None:
    def listen() -> None:
        with listening(None) as flag:
            seen.append(flag.is_set)

    seen: list[bool] = []
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [False]
    assert signal.getsignal(signal.SIGTERM) is before
