from __future__ import annotations

import pytest

from phaseline.distributed.environment import RankEnvironment
from phaseline.errors import UsageError

LAUNCHED = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "node-0",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "PHASELINE_IMAGE": "5",
    "PHASELINE_ATTEMPT": "7",
}


def test_environment_is_alone_when_nobody_launched_it() -> None:
    environment = RankEnvironment.read({})
    assert (environment.rank, environment.world_size, environment.local_rank) == (0, 1, 0)
    assert environment.is_main
    assert (environment.image, environment.attempt, environment.restart_count) == (0, None, 0)


def test_environment_takes_what_the_launcher_set() -> None:
    assert RankEnvironment.read(LAUNCHED) == RankEnvironment(
        rank=3,
        world_size=4,
        local_rank=1,
        master_addr="node-0",
        master_port=29500,
        agent_hosts_store=True,
        restart_count=2,
        image=5,
        attempt=7,
    )
    assert not RankEnvironment.read(LAUNCHED).is_main


@pytest.mark.parametrize("rank", ["4", "17"])
def test_environment_is_refused_when_the_rank_lies_outside_the_world(rank: str) -> None:
    with pytest.raises(UsageError, match=f"RANK is {rank} and WORLD_SIZE is 4; .*below the world"):
        RankEnvironment.read({**LAUNCHED, "RANK": rank})


def test_environment_is_refused_when_ranks_have_no_place_to_meet() -> None:
    with pytest.raises(UsageError, match="WORLD_SIZE is 2 but MASTER_ADDR is not set"):
        RankEnvironment.read({"RANK": "0", "WORLD_SIZE": "2"})


def test_variable_that_is_empty_is_not_set() -> None:
    environment = RankEnvironment.read({"RANK": "", "WORLD_SIZE": " ", "PHASELINE_ATTEMPT": ""})
    assert (environment.rank, environment.world_size, environment.attempt) == (0, 1, None)


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"])
def test_variable_that_is_no_number_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is 'all' in the environment; it must be a whole"):
        RankEnvironment.read({**LAUNCHED, name: "all"})
