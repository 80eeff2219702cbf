from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.distributed.world import World
from phaseline.errors import WorldError


def test_world_of_one_sums_and_gathers_its_own(world: World) -> None:
    assert (world.is_main, world.dp_rank, world.dp_world_size) == (True, 0, 1)
    assert world.all_reduce_sum(torch.tensor([1.5, 2.0])).tolist() == [1.5, 2.0]
    assert world.gather_objects({"a": (1, 2)}) == [{"a": [1, 2]}]
    world.require_agreement("the phase", "pretrain")


def test_world_is_refused_when_a_rank_never_comes() -> None:
    environment = replace(RankEnvironment.read({}), world_size=2)
    alone = Rendezvous(RankEnvironment.read({}), timeout_s=0.1)
    alone.environment = environment
    with pytest.raises(WorldError, match="for all ranks at 'world'"):
        World(environment, alone, collective_timeout_s=1)
    assert not torch.distributed.is_initialized()
