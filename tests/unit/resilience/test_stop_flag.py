from __future__ import annotations

import os
import signal
import threading

import pytest

from phaseline.resilience.stop_flag import STOP_SIGNALS, StopFlag, listening
from phaseline.session import linux
from phaseline.session.second_press import SecondPress


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
    # Under nohup SIGHUP is ignored, and stays so.
    found = signal.signal(number, signal.SIG_DFL)
    try:
        with listening(None) as flag:
            os.kill(os.getpid(), number)
            assert flag.reason == number.name
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, found)


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


def test_flag_is_set_by_what_it_watches_and_remembers_it() -> None:
    flag, answers = StopFlag(), ["", "phaseline stop on here"]
    with flag.watching(lambda: answers.pop(0)):
        assert [flag.is_set for _ in range(3)] == [False, True, True]
    assert (flag.is_set, flag.reason, flag.number) == (True, "phaseline stop on here", None)


def test_flag_watches_nothing_after_the_block() -> None:
    flag = StopFlag()
    with flag.watching(lambda: ""):
        pass
    with flag.watching(lambda: ""):
        assert not flag.is_set
    assert not flag.is_set


def test_second_press_of_ctrl_c_leaves_at_once_and_one_press_delivered_twice_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([10.0, 10.1, 11.0])
    with listening(None) as flag:
        monkeypatch.setattr(flag, "_presses", SecondPress(lambda: next(times)))
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert flag.reason == "SIGINT"
        with pytest.raises(KeyboardInterrupt, match="left at once"):
            os.kill(os.getpid(), signal.SIGINT)


def test_other_signals_never_leave_at_once() -> None:
    with listening(None) as flag:
        for number in STOP_SIGNALS:
            os.kill(os.getpid(), number)
        assert flag.reason == "SIGTERM"


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


def test_closed_terminal_is_no_matter_where_somebody_chose_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with listening(None) as flag:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not flag.is_set
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
