from __future__ import annotations

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


def test_vote_is_held_seldom_enough_to_be_cheap_and_often_enough_to_be_heard(world: World) -> None:
    vote = StopVote(StopFlag(), world)
    assert vote._proposal() == 1
    vote._edge_s, vote._cost_s = 0.010, 0.0001
    assert vote._proposal() == 2  # 0.1 ms in 20 ms are half a percent
    vote._cost_s = 1.0
    assert vote._proposal() == 200  # two seconds of steps, however dear it is
    vote._edge_s = 30.0
    assert vote._proposal() == 1
