from __future__ import annotations

import time
from dataclasses import replace

import pytest

from phaseline.training.phases.learning_rate import LearningRate
from phaseline.training.phases.meter import Gauges
from phaseline.training.phases.plan import PhasePlan
from phaseline.training.phases.progress_clock import ProgressClock
from phaseline.training.phases.schedule import Schedule

NEVER = Schedule(None)
PLAN = PhasePlan(
    num_steps=100,
    tokens_per_step=64,
    learning_rate=LearningRate(
        shape="constant", peak=1, num_steps=100, warmup_steps=0, decay_steps=0, final_frac=1
    ),
    validation=NEVER,
    checkpoint=NEVER,
    reading=Schedule(10),
)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    moment = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    return moment


def _gauges(*, evaluation_s: float = 0, save_stall_s: float = 0) -> Gauges:
    return Gauges(0, evaluation_s, save_stall_s, 0, 0, 0)


def test_clock_knows_nothing_until_steps_were_taken(now: list[float]) -> None:
    clock = ProgressClock(PLAN, later_tokens=640)
    clock.update(0)
    now[0] += 5
    clock.update(0)
    assert (clock.tokens_per_s, clock.phase_left_s, clock.session_left_s) == (0.0, None, None)


def test_clock_gives_the_latest_speed_and_the_time_left_by_recent_steps(now: list[float]) -> None:
    clock = ProgressClock(PLAN, later_tokens=640)
    clock.update(10)
    now[0] += 10
    clock.update(20)  # one second a step
    now[0] += 30
    clock.update(30)  # three seconds a step, two in the mean
    assert clock.tokens_per_s == pytest.approx(64 / 3)
    assert clock.phase_left_s == pytest.approx(2 * 70)
    assert clock.session_left_s == pytest.approx(2 * 70 + 2 * 10)


def test_clock_leaves_the_time_left_open_after_a_first_step_alone(now: list[float]) -> None:
    clock = ProgressClock(PLAN, later_tokens=0)
    clock.update(10)
    now[0] += 500
    clock.update(11)  # compiled
    assert clock.step_s == pytest.approx(500)
    assert clock.phase_left_s is None
    now[0] += 1
    clock.update(12)
    assert clock.phase_left_s == pytest.approx(88)


def test_clock_is_silent_when_nothing_was_shown_for_a_while(now: list[float]) -> None:
    clock = ProgressClock(PLAN, later_tokens=0)
    assert not clock.is_silent()
    now[0] += 1
    assert clock.is_silent()
    clock.note_shown()
    assert not clock.is_silent()


def test_clock_forgets_how_slow_the_first_steps_were(now: list[float]) -> None:
    clock = ProgressClock(PLAN, later_tokens=0)
    clock.update(0)
    now[0] += 500
    clock.update(1)  # compiled
    for step in range(2, 10):
        now[0] += 1
        clock.update(step)
    assert clock.phase_left_s == pytest.approx(91)


def test_clock_adds_evaluations_and_saves_to_the_time_left_and_not_to_the_speed(
    now: list[float],
) -> None:
    plan = replace(PLAN, validation=Schedule(20), checkpoint=Schedule(50))
    clock = ProgressClock(plan, later_tokens=6400)
    clock.update(10)
    now[0] += 10 + 7 + 3
    clock.update(20, _gauges(evaluation_s=7, save_stall_s=3))
    assert clock.step_s == pytest.approx(1)
    assert clock.tokens_per_s == pytest.approx(64)
    # At 40, 60, 80 and at the end; saves at 50 and at the end.
    assert clock.phase_left_s == pytest.approx(80 + 4 * 7 + 2 * 3)
    # A later phase of as many tokens takes what this one does: 5 evaluations and 2 saves.
    whole_s = 100 + 5 * 7 + 2 * 3
    assert clock.session_left_s == pytest.approx(80 + 4 * 7 + 2 * 3 + whole_s)


def test_clock_divides_what_several_evaluations_cost_by_their_number(now: list[float]) -> None:
    clock = ProgressClock(replace(PLAN, validation=Schedule(5)), later_tokens=0)
    clock.update(0)
    now[0] += 30
    clock.update(10, _gauges(evaluation_s=20))
    # 90 steps of a second; 17 evaluations before the end and one at it, of ten seconds each.
    assert clock.phase_left_s == pytest.approx(90 + 18 * 10)


def test_clock_does_not_divide_by_nothing_when_no_time_has_passed(now: list[float]) -> None:
    clock = ProgressClock(PLAN, later_tokens=0)
    clock.update(0)
    clock.update(5)
    assert clock.phase_left_s is None
    now[0] += 1
    clock.update(5)
    assert clock.phase_left_s == pytest.approx(19)
