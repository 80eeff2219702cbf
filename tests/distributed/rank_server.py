"""The fork server that ranks of tests come from: everything they import is imported once.

A rank that starts from nothing pays 5 s of CPU for torch, deepspeed, accelerate, transformers
and this package; one that is forked here pays nothing. Children have one thread and no process
group, as a fresh process has. What they share, unlike fresh processes, is the seed of Python's
string hashes: a set whose order differs between ranks is met by sessions that tests launch.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import multiprocessing
import os
import sys
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

_PRELOADED = "distributed.rank_imports"


class RankCall(NamedTuple):
    """What a rank is to run, and where its traces go.

    Attributes:
        file: The file of the function.
        function: Its name there.
        arguments: JSON.
        variables: The whole environment of the rank.
        result: Takes what the function returned, as JSON.
        output: Takes what the rank prints.
        patience_s: When a rank that still runs writes the stacks of its threads.
    """

    file: str
    function: str
    arguments: str
    variables: dict[str, str]
    result: str
    output: str
    patience_s: float


def start_rank(call: RankCall) -> ForkServerProcess:
    """Starts a rank; of the first call in a process it takes some seconds."""
    process = _context().Process(target=_run, args=(call,))
    process.start()
    return process


@cache
def _context() -> ForkServerContext:
    """Starts the server, which lives as long as this process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOADED])
    # It is handed no path to import from, and what it cannot import it leaves out unsaid.
    variables = {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    with patch.dict(os.environ, variables):
        forkserver.ensure_running()
    return context


def _run(call: RankCall) -> None:
    """In the forked process."""
    assert _PRELOADED in sys.modules, "the fork server could not import what ranks need"
    os.environ.clear()
    os.environ.update(call.variables)
    os.chdir("/")
    with Path(call.output).open("wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    faulthandler.dump_traceback_later(call.patience_s)
    # By its file and name alone, as a test's module has another name in every runner.
    spec = importlib.util.spec_from_file_location("rank_functions", call.file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["rank_functions"] = module
    spec.loader.exec_module(module)
    value = getattr(module, call.function)(*json.loads(call.arguments))
    Path(call.result).write_text(json.dumps(value), encoding="utf-8")
    sys.stdout.flush()
    faulthandler.cancel_dump_traceback_later()
