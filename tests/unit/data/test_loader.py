from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from phaseline.config.batch_layout import BatchLayout
from phaseline.config.sections import Config
from phaseline.data import loader_workers
from phaseline.data.batch import Batch
from phaseline.data.batch_arrays import BatchArrays
from phaseline.data.loader import DirectLoader, Loader, WorkerLoader, build_loader
from phaseline.data.loader_workers import AnyArrays, LoaderWorkers
from phaseline.data.phase_data import PhaseData, open_phase_data
from phaseline.data.preparation import prepare
from phaseline.errors import DataError, ExitCode, LostWorkerError
from unit.data.conftest import MakeConfig

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
SEEDS = [11, 12]


def numbered(idx: int) -> BatchArrays:
    """A batch that says which it is and who read it."""
    inputs = np.full((2, 3 + idx % 2), idx)
    targets = np.full_like(inputs, os.getpid())
    positions = np.arange(inputs.size).reshape(inputs.shape) if idx % 3 == 0 else None
    pairs = np.array([[idx, -1]]) if idx % 2 else None
    return BatchArrays(inputs, targets, positions, np.array([idx, 0]), 2, pairs)


def drawn(idx: int) -> BatchArrays:
    """A batch of what the reader's generators give."""
    inputs = np.array([[random.getrandbits(40), int(np.random.randint(2**40))]])
    return BatchArrays(inputs, inputs, None, None, idx)


def state_of_numpy() -> str:
    return str(np.random.get_state(legacy=False))


def failing(idx: int) -> BatchArrays:
    if idx == 5:
        raise FileNotFoundError("the store is gone")
    return numbered(idx)


@pytest.fixture
def started() -> Iterator[list[LoaderWorkers]]:
    made: list[LoaderWorkers] = []
    yield made
    for workers in made:
        workers.close()


def start(started: list[LoaderWorkers], read: Any = numbered, **changes: Any) -> LoaderWorkers:
    arguments = {"seeds": SEEDS, "prefetch": 3, "most_bytes": 16 * 3 * 8, **changes}
    workers = LoaderWorkers(read, **arguments)
    started.append(workers)
    return workers


def require_equal(found: AnyArrays, expected: BatchArrays) -> None:
    assert isinstance(found, BatchArrays)
    assert np.array_equal(found.inputs, expected.inputs)
    assert (found.positions is None) == (expected.positions is None)
    if found.positions is not None and expected.positions is not None:
        assert np.array_equal(found.positions, expected.positions)
    assert found.sources is not None
    assert found.sources.tolist() == [int(expected.inputs[0, 0]), 0]
    assert found.num_samples == expected.num_samples
    pairs = [None if one.pairs is None else one.pairs.tolist() for one in (found, expected)]
    assert pairs[0] == pairs[1]


def test_workers_give_every_batch_in_order_from_any_position(
    started: list[LoaderWorkers],
) -> None:
    workers = start(started)
    readers = set()
    for idx in (*range(20), *range(7, 12), *range(10**9, 10**9 + 5)):
        arrays = workers.take(idx)
        require_equal(arrays, numbered(idx))
        assert isinstance(arrays, BatchArrays)
        readers.add(int(arrays.targets[0, 0]))
    assert readers == set(workers.pids)
    assert len(readers) == 2


def test_batches_stay_as_they_are_when_the_next_are_read(started: list[LoaderWorkers]) -> None:
    workers = start(started, prefetch=1)
    kept = [workers.take(idx) for idx in range(12)]
    for idx, arrays in enumerate(kept):
        require_equal(arrays, numbered(idx))


def test_workers_start_with_the_first_batch_and_are_gone_after_close(
    started: list[LoaderWorkers],
) -> None:
    workers = start(started)
    assert workers.pids == []
    workers.take(0)
    pids = workers.pids
    assert all(psutil.pid_exists(pid) for pid in pids)
    workers.close()
    workers.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_workers_draw_from_generators_of_their_own(started: list[LoaderWorkers]) -> None:
    random.seed(3)
    np.random.seed(3)
    before = random.getstate(), state_of_numpy()
    workers = start(started, drawn)
    first = [workers.take(idx).inputs.tolist() for idx in range(8)]
    assert len({str(draws) for draws in first}) == 8
    assert (random.getstate(), state_of_numpy()) == before
    again = start(started, drawn)
    assert [again.take(idx).inputs.tolist() for idx in range(8)] == first
    others = start(started, drawn, seeds=[13, 14])
    assert others.take(0).inputs.tolist() not in first


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_workers_go_on_when_a_stop_signal_reaches_them(
    started: list[LoaderWorkers], number: signal.Signals
) -> None:
    workers = start(started)
    workers.take(0)
    for pid in workers.pids:
        os.kill(pid, number)
    for idx in range(1, 12):
        require_equal(workers.take(idx), numbered(idx))


def test_signal_masks_are_as_before_when_workers_have_started(
    started: list[LoaderWorkers],
) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    start(started).take(0)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_failure_in_a_worker_is_told_with_its_traceback(started: list[LoaderWorkers]) -> None:
    workers = start(started, failing)
    for idx in range(5):
        workers.take(idx)
    with pytest.raises(DataError, match=r"could not read micro-batch 5:\n(.|\n)*the store is gone"):
        workers.take(5)


def test_death_of_a_worker_is_told_with_what_to_do(started: list[LoaderWorkers]) -> None:
    workers = start(started)
    workers.take(0)
    for pid in workers.pids:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(
        LostWorkerError, match=r"was killed by SIGKILL.*lower data\.num_workers"
    ) as caught:
        take_many(workers)
    assert caught.value.exit_code is ExitCode.FAILED


def hang_first_forks(monkeypatch: pytest.MonkeyPatch, num_stuck: int) -> list[int]:
    """Lets so many children hang in their forks; the list fills with all children's pids."""
    fork = os.fork
    forked: list[int] = []

    def hang_in_child() -> int:
        pid = fork()
        if pid == 0 and len(forked) < num_stuck:
            time.sleep(60)
            os._exit(1)
        forked.append(pid)
        return pid

    monkeypatch.setattr(os, "fork", hang_in_child)
    return forked


@pytest.mark.parametrize("num_stuck", [2, 3])
def test_worker_that_hangs_in_its_fork_is_replaced_or_told(
    started: list[LoaderWorkers], monkeypatch: pytest.MonkeyPatch, num_stuck: int
) -> None:
    forked = hang_first_forks(monkeypatch, num_stuck)
    monkeypatch.setattr(loader_workers, "_PATIENCES_S", (0.2, 0.2, 20.0 if num_stuck < 3 else 0.2))
    workers = start(started)
    if num_stuck < 3:
        require_equal(workers.take(0), numbered(0))
        assert workers.pids == forked[2:]
    else:
        # Another start may fork as it should.
        with pytest.raises(LostWorkerError, match=r"no loader worker started.*num_workers to 0"):
            workers.take(0)
    assert [pid for pid in forked[:num_stuck] if psutil.pid_exists(pid)] == []


def test_worker_that_hangs_in_its_fork_ends_when_the_wait_for_it_is_cut_short(
    started: list[LoaderWorkers], monkeypatch: pytest.MonkeyPatch
) -> None:
    def press_again(*_: object) -> None:
        raise KeyboardInterrupt

    forked = hang_first_forks(monkeypatch, 1)
    monkeypatch.setattr(Connection, "poll", press_again)
    with pytest.raises(KeyboardInterrupt):
        start(started).take(0)
    assert [psutil.pid_exists(pid) for pid in forked] == [False]


def take_many(workers: LoaderWorkers) -> None:
    """More than lie ready."""
    for idx in range(1, 20):
        workers.take(idx)


_PARENT = """
import os, sys, time
sys.path.insert(0, {tests!r})
from unit.data.test_loader import numbered
from phaseline.data.loader_workers import AnyArrays, LoaderWorkers
opened = open("/dev/null")
workers = LoaderWorkers(numbered, seeds=[1, 2], prefetch=2, most_bytes=16 * 3 * 8)
workers.take(0)
print(*workers.pids, opened.fileno(), flush=True)
time.sleep(60)
"""


def test_workers_end_with_their_parent_and_hold_none_of_its_files() -> None:
    source = _PARENT.format(tests=str(Path(__file__).parents[2]))
    with subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        *pids, opened = map(int, parent.stdout.readline().split())
        for pid in pids:
            assert not Path(f"/proc/{pid}/fd/{opened}").exists()
        parent.kill()
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlived their parent"
        time.sleep(0.05)


def _open(make_config: MakeConfig, corpus: str, layout: BatchLayout) -> tuple[Config, PhaseData]:
    config = make_config(
        {"source": "text_files", "arguments": {"paths": [corpus]}},
        batch={"global_size": 12, "micro_size": layout.micro_size},
        data={"num_workers": 2, "prefetch": 2},
    )
    prepare(config, lambda _: None)
    return config, open_phase_data(config, 0, layout)


def _stream(loaders: list[Loader], layout: BatchLayout, steps: range) -> list[Batch]:
    """The micro-batches of all ranks, in the order of the global batch."""
    return [
        _batch(loader, step, micro_step)
        for step in steps
        for micro_step in range(layout.accumulation_steps)
        for loader in loaders
    ]


def _batch(loader: Loader | PhaseData, step: int, micro_step: int) -> Batch:
    if isinstance(loader, PhaseData):
        found = loader.micro_batch(step, micro_step, 0)
    else:
        found = loader.micro_batch(step, micro_step)
    assert isinstance(found, Batch)
    return found


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_stream_of_samples_is_the_same_with_workers_and_ranks_of_any_number(
    make_config: MakeConfig, corpus: str, num_ranks: int
) -> None:
    layout = BatchLayout.derive(12, 1, num_ranks)
    config, data = _open(make_config, corpus, layout)
    section = config.phases[0].data
    loaders = [
        build_loader(section, data, seed=0, phase_idx=0, dp_rank=rank) for rank in range(num_ranks)
    ]
    assert all(isinstance(loader, WorkerLoader) for loader in loaders)
    whole = BatchLayout.derive(12, 1, 1)
    alone = DirectLoader(open_phase_data(config, 0, whole), 0)
    try:
        # The second stretch is what a resumed run asks for.
        for steps in (range(4), range(2, 5)):
            found = _stream(loaders, layout, steps)
            expected = _stream([alone], whole, steps)
            for one, other in zip(found, expected, strict=True):
                assert torch.equal(one.input_ids, other.input_ids)
                assert torch.equal(one.targets, other.targets)
                assert (one.position_ids is None) == (other.position_ids is None)
    finally:
        for loader in loaders:
            loader.close()


def test_loader_reads_directly_when_no_workers_are_asked_for(
    make_config: MakeConfig, corpus: str
) -> None:
    config, data = _open(make_config, corpus, BatchLayout.derive(12, 2, 1))
    section = config.phases[0].data.model_copy(update={"num_workers": 0})
    loader = build_loader(section, data, seed=0, phase_idx=0, dp_rank=0)
    assert isinstance(loader, DirectLoader)
    assert torch.equal(_batch(loader, 3, 1).input_ids, _batch(data, 3, 1).input_ids)
    loader.close()
