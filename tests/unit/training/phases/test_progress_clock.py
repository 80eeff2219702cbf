from __future__ import annotations

import time

import pytest

from phaseline.training.phases.progress_clock import ProgressClock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    moment = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    return moment


def test_clock_knows_nothing_until_steps_were_taken(now: list[float]) -> None:
    clock = ProgressClock(phase_steps=100, tokens_per_step=64, later_tokens=640)
    clock.update(0)
    now[0] += 5
    clock.update(0)
    assert (clock.tokens_per_s, clock.phase_left_s, clock.session_left_s) == (0.0, None, None)


def test_clock_gives_the_latest_speed_and_the_mean_time_left(now: list[float]) -> None:
    clock = ProgressClock(phase_steps=100, tokens_per_step=64, later_tokens=640)
    clock.update(10)
    now[0] += 10
    clock.update(20)  # one second a step
    now[0] += 30
    clock.update(30)  # three seconds a step, two in the mean
    assert clock.tokens_per_s == pytest.approx(64 / 3)
    assert clock.phase_left_s == pytest.approx(2 * 70)
    assert clock.session_left_s == pytest.approx(2 * 70 + 2 * 10)


def test_clock_does_not_divide_by_nothing_when_no_time_has_passed(now: list[float]) -> None:
    clock = ProgressClock(phase_steps=100, tokens_per_step=64, later_tokens=0)
    clock.update(0)
    clock.update(5)
    assert clock.phase_left_s is None
    now[0] += 1
    clock.update(5)
    assert clock.phase_left_s == pytest.approx(19)
