from __future__ import annotations

import pytest

from phaseline.distributed.world import World
from phaseline.resilience.stop import StopVote
from phaseline.resilience.stop_flag import StopFlag


def test_vote_of_one_rank_is_its_flag(world: World) -> None:
    flag = StopFlag()
    vote = StopVote(flag, world)
    assert not vote.agreed()
    flag.set()
    assert vote.agreed()
    vote.close()


def test_vote_stays_agreed_and_asks_at_once_where_it_is_told_to(world: World) -> None:
    flag = StopFlag()
    vote = StopVote(flag, world)
    assert not vote.agreed_now()
    assert not vote.heard()
    vote.begin()
    assert not vote.agreed()
    flag.set()
    assert vote.heard()
    assert vote.agreed_now()
    vote.begin()
    assert vote.agreed()


def test_vote_measures_whole_edges_and_starts_afresh_with_every_loop(world: World) -> None:
    vote = StopVote(StopFlag(), world)
    vote._measure(100.0)
    assert vote._edge_s == 0.0  # what lay before the first edge is none
    vote._measure(101.0)
    assert vote._edge_s == 1.0
    vote._measure(101.5)
    assert vote._edge_s == pytest.approx(0.95)
    vote.begin()
    assert (vote._edge_s, vote._proposal()) == (0.0, 1)


def test_vote_is_held_seldom_enough_to_be_cheap_and_often_enough_to_be_heard(world: World) -> None:
    vote = StopVote(StopFlag(), world)
    assert vote._proposal() == 1
    vote._edge_s, vote._cost_s = 0.010, 0.0001
    assert vote._proposal() == 2  # 0.1 ms in 20 ms are half a percent
    vote._cost_s = 1.0
    assert vote._proposal() == 200  # two seconds of steps, however dear it is
    vote._edge_s = 30.0
    assert vote._proposal() == 1
