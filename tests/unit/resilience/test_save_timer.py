from __future__ import annotations

import pytest

from phaseline.distributed.world import World
from phaseline.resilience.save_timer import FIRST_SAVE_S, SaveTimer
from phaseline.resilience.stop import StopVote
from phaseline.resilience.stop_flag import StopFlag


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("interval_s", "first_s"), [(900.0, FIRST_SAVE_S), (60.0, 60.0)])
def test_first_save_comes_early_and_each_later_one_an_interval_after_the_last(
    interval_s: float, first_s: float
) -> None:
    clock = Clock()
    timer = SaveTimer(interval_s, clock=clock)
    clock.now += first_s - 1
    assert not timer.is_due()
    clock.now += 1
    assert timer.is_due()
    assert timer.is_due()  # until it is done
    timer.note_saved()
    clock.now += interval_s - 1
    assert not timer.is_due()
    timer.note_saved()  # for another reason: time begins anew
    clock.now += interval_s - 1
    assert not timer.is_due()
    clock.now += 1
    assert timer.is_due()


def test_time_asks_for_no_save_without_an_interval() -> None:
    clock = Clock()
    timer = SaveTimer(None, clock=clock)
    clock.now += 1e9
    timer.note_saved()
    assert not timer.is_due()


def test_vote_of_one_rank_tells_of_a_save_until_it_is_noted(world: World) -> None:
    clock = Clock()
    vote = StopVote(StopFlag(), world, SaveTimer(60, clock=clock))
    assert (vote.agreed(), vote.save_is_due()) == (False, False)
    clock.now += 60
    assert (vote.agreed(), vote.save_is_due()) == (False, True)
    vote.note_saved()
    assert (vote.agreed(), vote.save_is_due()) == (False, False)
