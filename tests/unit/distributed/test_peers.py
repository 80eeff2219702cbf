from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]  # not in __all__

from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.peers import Peers
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.errors import LostRankError
from unit.distributed.test_rendezvous import connect, free_port

PATIENCE_S = 30.0

JOIN = """
import sys
from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
meeting = Rendezvous(RankEnvironment.read(), timeout_s=60)
if sys.argv[1:] == ["part"]:
    meeting.publish("part", 5)
else:
    print("joined", flush=True)
    sys.stdin.readline()
"""

# A launcher whose ranks are killed before they told anybody of themselves.
LAUNCH = """
import os, subprocess, sys
code = '''
import sys
from phaseline.session.linux import count_launched_siblings
for _ in sys.stdin:
    print(count_launched_siblings(), flush=True)
'''
ranks = []
for rank in range(2):
    environment = os.environ | {"LOCAL_RANK": str(rank), "TORCHELASTIC_RUN_ID": "none"}
    ranks.append(subprocess.Popen(
        [sys.executable, "-c", code], env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ))
def ask():
    ranks[0].stdin.write("?\\n")
    ranks[0].stdin.flush()
    return ranks[0].stdout.readline().strip()
before = ask()
ranks[1].kill()
os.waitid(os.P_PID, ranks[1].pid, os.WEXITED | os.WNOWAIT)
zombie = ask()
ranks[1].wait()
print(before, zombie, ask(), flush=True)
ranks[0].kill()
"""


def variables(rank: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the other rank; it is killed after the test."""
    started: list[subprocess.Popen[str]] = []

    def start_one(port: int, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", JOIN, *words],
            env=os.environ | variables(1, port),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def test_rank_that_waits_learns_that_a_peer_was_killed(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    port = free_port()
    main = Rendezvous(RankEnvironment.read(variables(0, port)), timeout_s=PATIENCE_S)
    other = start(port)
    assert other.stdout is not None
    assert other.stdout.readline() == "joined\n"
    other.kill()
    message = rf"waited for all ranks at 'world', but rank 1 \(process {other.pid} on .*\) is gone"
    with pytest.raises(LostRankError, match=message):
        main.barrier("world", timeout_s=PATIENCE_S)


def test_rank_that_did_its_part_may_end(start: Callable[..., subprocess.Popen[str]]) -> None:
    port = free_port()
    main = connect(RankEnvironment.read(variables(0, port)), timeout_s=PATIENCE_S)
    other = start(port, "part")
    other.wait(PATIENCE_S)
    assert main.wait_for("part", timeout_s=PATIENCE_S) == 5


def test_ranks_that_live_are_not_missed() -> None:
    environment = RankEnvironment.read(variables(0, 0))
    store = HashStore()
    main = Peers(environment, store)
    other = Peers(replace(environment, rank=1, local_rank=1), store)
    assert (main.find_lost(), other.find_lost()) == ("", "")


def test_ranks_of_other_machines_are_not_looked_at() -> None:
    alone = replace(RankEnvironment.read(variables(0, 0)), local_world_size=1)
    store = HashStore()
    main = Peers(alone, store)
    gone = json.loads(store.get("process/0")) | {"pid": 2**22 + 1}
    store.set("process/1", json.dumps(gone))
    assert main.find_lost() == ""
    local = Peers(replace(alone, local_world_size=2), store)
    deadline = time.monotonic() + PATIENCE_S
    while not (lost := local.find_lost()):
        assert time.monotonic() < deadline
    assert "rank 1 (process 4194305" in lost


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: lists a process's children")
def test_rank_that_was_killed_early_is_missing_among_its_siblings() -> None:
    words = [sys.executable, "-c", LAUNCH]
    told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
    assert told.split() == ["2", "1", "1"]
