from __future__ import annotations

from pathlib import Path

import pytest

from phaseline.cluster.slot import EndlessSlot, TimedSlot, open_slot
from phaseline.session.layout import SessionLayout

END = 10_000.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.end: float | None = END
        self.num_readings = 0

    def __call__(self) -> float:
        return self.now

    def read_end(self) -> float | None:
        self.num_readings += 1
        return self.end


def first_stop(slot: TimedSlot, clock: Clock) -> float:
    """The second at which the slot first says that training must stop."""
    while not slot.look():
        clock.now += 1
        assert clock.now < END
    return clock.now


@pytest.mark.parametrize(("step_s", "save_s", "needed_s"), [(3.0, 20.0, 56.0), (0.1, 1.0, 12.2)])
def test_everything_is_saved_before_the_warning_can_come(
    step_s: float, save_s: float, needed_s: float
) -> None:
    clock = Clock()
    slot = TimedSlot(clock.read_end, lead_s=120, save_s=None, clock=clock)
    slot.step_took(step_s)
    slot.save_took(save_s)
    assert slot.needed_s == pytest.approx(needed_s)
    earliest_warning = END - 120 - 60
    stop = first_stop(slot, clock)
    assert stop + needed_s <= earliest_warning + 1
    assert stop + needed_s > earliest_warning - 1


def test_slow_steps_of_long_ago_are_forgotten_and_slow_saves_are_not() -> None:
    slot = TimedSlot(lambda: None, lead_s=120, save_s=2.0)
    slot.step_took(50.0)
    for _ in range(20):
        slot.step_took(1.0)
    slot.save_took(9.0)
    slot.save_took(1.0)
    assert slot.needed_s == 2 * 1.0 + 2 * 9.0 + 10


def test_end_is_read_again_because_it_may_move() -> None:
    clock = Clock()
    slot = TimedSlot(clock.read_end, lead_s=30, save_s=1.0, clock=clock)
    assert slot.look() == ""
    # A preemption leaves the job thirty seconds.
    clock.end = 30.0
    clock.now = 11.0
    assert slot.look() == "the job's time ends in 19 s"
    assert clock.num_readings == 2


def test_looking_at_every_step_costs_no_reading() -> None:
    clock = Clock()
    slot = TimedSlot(clock.read_end, lead_s=30, save_s=1.0, clock=clock)
    for _ in range(1000):
        slot.look()
    assert clock.num_readings == 1


def test_job_without_a_limit_never_stops() -> None:
    clock = Clock()
    clock.end = None
    slot = TimedSlot(clock.read_end, lead_s=30, save_s=1.0, clock=clock)
    clock.now = 1e9
    assert slot.look() == ""


def test_slot_is_endless_outside_of_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    slot = open_slot(SessionLayout(tmp_path), lead_s=30)
    assert isinstance(slot, EndlessSlot)
    assert slot.look() == ""
