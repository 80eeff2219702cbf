from __future__ import annotations

import itertools
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from phaseline.distributed import rendezvous
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.errors import WorldError

ALONE = RankEnvironment.read({})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rank_of_two(rank: int, port: int) -> RankEnvironment:
    return replace(ALONE, rank=rank, world_size=2, master_addr="127.0.0.1", master_port=port)


def connect(environment: RankEnvironment, timeout_s: float = 20, run: int = 0) -> Rendezvous:
    # Two ranks live in this one process here, and each counts its own runs.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendezvous, "_RUNS", itertools.count(run))
        return Rendezvous(environment, timeout_s=timeout_s)


def pair(port: int) -> tuple[Rendezvous, Rendezvous]:
    return connect(rank_of_two(0, port)), connect(rank_of_two(1, port))


def test_rendezvous_hands_a_value_over_when_it_is_published_later() -> None:
    main, other = pair(free_port())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other.wait_for, "task", timeout_s=20)
        main.publish("task", {"kind": "train", "phase_idx": 1, "folder": None})
        assert waiting.result() == {"kind": "train", "phase_idx": 1, "folder": None}


def test_rendezvous_tells_without_waiting_whether_a_value_is_published() -> None:
    main, other = pair(free_port())
    assert not other.is_published("stop")
    main.publish("stop", True)
    other.wait_for("stop", timeout_s=20)  # the store answers nobody who sets a key
    assert other.is_published("stop")


def test_rendezvous_does_something_else_while_it_waits_at_a_barrier() -> None:
    main, other = pair(free_port())
    waits: list[int] = []

    def let_the_other_come() -> None:
        waits.append(len(waits))
        if len(waits) == 2:
            other.barrier("prepared")

    main.barrier("prepared", meanwhile=let_the_other_come)
    assert waits == [0, 1]


def test_rendezvous_lets_nobody_through_a_barrier_until_all_are_there() -> None:
    main, other = pair(free_port())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other.barrier, "close")
        with pytest.raises(WorldError, match=r"Rank 0 waited 0\.2 s for the value 'absent'"):
            main.wait_for("absent", timeout_s=0.2)
        assert not waiting.done()
        main.barrier("close")
        waiting.result(timeout=20)


def test_rendezvous_names_the_barrier_when_a_rank_does_not_come() -> None:
    main, _ = pair(free_port())
    with pytest.raises(WorldError, match=r"waited 0\.1 s for all ranks at 'world'.*lost or stuck"):
        main.barrier("world", timeout_s=0.1)


def test_rendezvous_keeps_images_restarts_and_runs_apart() -> None:
    port = free_port()
    main, other = pair(port)
    main.publish("task", 1)
    later_image = connect(replace(rank_of_two(0, port), image=1))
    later_try = connect(replace(rank_of_two(0, port), restart_count=1))
    later_run = connect(rank_of_two(0, port), run=1)
    for stranger in (later_image, later_try, later_run):
        with pytest.raises(WorldError, match="for the value 'task'"):
            stranger.wait_for("task", timeout_s=0.05)
    assert other.wait_for("task", timeout_s=20) == 1


def test_rendezvous_says_where_the_store_should_be_when_nobody_serves_it() -> None:
    port = free_port()
    with pytest.raises(WorldError, match=f"could not reach the store at 127.0.0.1:{port} within"):
        connect(rank_of_two(1, port), timeout_s=1)


def test_rendezvous_needs_no_network_when_the_rank_is_alone() -> None:
    alone = Rendezvous(ALONE, timeout_s=1)
    alone.barrier("close")
    alone.publish("a", [1, None])
    assert alone.wait_for("a") == [1, None]
