from __future__ import annotations

import json
import os
import socket

import pytest

from phaseline.errors import SessionError
from phaseline.session.attempts import take_attempt
from phaseline.session.layout import SessionLayout
from phaseline.session.stop_request import (
    LOOK_EVERY_S,
    StopRequestWatch,
    read_stop_request,
    request_stop,
)


def test_request_names_its_attempt_and_whoever_asked_first(layout: SessionLayout) -> None:
    attempt = take_attempt(layout)
    assert read_stop_request(attempt) is None
    assert request_stop(attempt)
    first = read_stop_request(attempt)
    assert not request_stop(attempt)
    assert read_stop_request(attempt) == first
    assert first is not None
    assert (first.attempt, first.pid) == (1, os.getpid())
    assert str(first) == f"phaseline stop on {socket.gethostname()}"


def test_request_stops_no_later_attempt(layout: SessionLayout) -> None:
    request_stop(take_attempt(layout))
    later = take_attempt(layout)
    assert read_stop_request(later) is None
    assert StopRequestWatch(later).look() == ""


def test_request_that_was_copied_from_another_attempt_asks_for_nothing(
    layout: SessionLayout,
) -> None:
    first, second = take_attempt(layout), take_attempt(layout)
    request_stop(first)
    second.stop_file.write_bytes(first.stop_file.read_bytes())
    with pytest.raises(SessionError, match="asks attempt 1 to stop, and lies in the folder of"):
        read_stop_request(second)
    assert StopRequestWatch(second).look() == ""


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"attempt": 1, "who": "me"})])
def test_request_that_is_damaged_ends_no_run(layout: SessionLayout, content: str) -> None:
    attempt = take_attempt(layout)
    attempt.stop_file.write_text(content)
    assert StopRequestWatch(attempt).look() == ""
    with pytest.raises(SessionError, match="stop"):
        read_stop_request(attempt)


def test_watch_looks_now_and_then_only(layout: SessionLayout) -> None:
    attempt = take_attempt(layout)
    rare, eager = StopRequestWatch(attempt, every_s=3600), StopRequestWatch(attempt, every_s=0)
    assert (rare.look(), eager.look()) == ("", "")
    request_stop(attempt)
    assert rare.look() == ""
    assert eager.look() == f"phaseline stop on {socket.gethostname()}"
    assert LOOK_EVERY_S >= 0.5
