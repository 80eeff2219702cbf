"""Running a function on several real ranks over gloo."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from distributed.rank_server import RankCall, start_rank

_LEFT_TO_TELL_S = 3.0
"""Before its time is up a rank that hangs writes where."""


def run_ranks(
    function: Callable[..., Any], world_size: int, *arguments: Any, timeout_s: float = 180
) -> list[Any]:
    """Runs a module-level function in `world_size` processes and returns their results.

    Arguments and results are JSON values. Each process sees the variables of a launched
    rank. If one fails, the others are ended and its output is in the error; of ranks that do
    not end in time, the stacks of all threads.
    """
    file = sys.modules[function.__module__].__file__
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        results = [Path(folder) / f"{rank}.json" for rank in range(world_size)]
        outputs = [Path(folder) / f"{rank}.log" for rank in range(world_size)]
        ranks = [
            start_rank(
                RankCall(
                    file=str(file),
                    function=function.__name__,
                    arguments=json.dumps(arguments),
                    variables=_variables(rank, world_size, port),
                    result=str(results[rank]),
                    output=str(outputs[rank]),
                    patience_s=timeout_s - _LEFT_TO_TELL_S,
                )
            )
            for rank in range(world_size)
        ]
        try:
            codes = _wait(ranks, timeout_s)
        finally:
            for rank in ranks:
                rank.kill()
                rank.join()
        failed = [
            f"rank {rank} ended with {code}:\n{outputs[rank].read_text()[-4000:]}"
            for rank, code in enumerate(codes)
            if code
        ]
        if not failed and None in codes:
            texts = [output.read_text()[-8000:] for output in outputs]
            failed = [f"not all ranks ended within {timeout_s:g} s: {codes}", *texts]
        if failed:
            raise AssertionError("\n".join(failed))
        return [json.loads(path.read_text()) for path in results]


def _wait(ranks: list[ForkServerProcess], timeout_s: float) -> list[int | None]:
    """Exit codes once all ranks have ended or one has failed; None: it had not ended."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        codes = [rank.exitcode for rank in ranks]
        if None not in codes or any(codes):
            # Others may fail at the same time, and theirs may be the cause.
            time.sleep(1.0 if any(codes) else 0.0)
            break
        time.sleep(0.05)
    return [rank.exitcode for rank in ranks]


def _variables(rank: int, world_size: int, port: int) -> dict[str, str]:
    tests = Path(__file__).parents[1]
    return {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(tests),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
