from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
import torch

from phaseline.training.phases.meter import Gauges, Meter, largest, spread


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    moment = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: moment[0])
    return moment


def test_meter_adds_up_what_went_elsewhere_and_starts_anew_when_read(now: list[float]) -> None:
    meter = Meter(torch.device("cpu"))
    meter.data_wait_s += 2
    for seconds in (3, 4):
        meter.begin_evaluation()
        now[0] += seconds
        assert meter.evaluation_so_far_s == seconds
    meter.end_evaluation()
    now[0] += 100
    meter.end_evaluation()
    first = meter.read(stall_s=1.5)
    assert (first.data_wait_s, first.evaluation_s, first.save_stall_s) == (2, 7, 1.5)
    second = meter.read(stall_s=1.75)
    assert (second.data_wait_s, second.evaluation_s, second.save_stall_s) == (0, 0, 0.25)


def test_meter_reads_the_memory_of_this_process() -> None:
    gauges = Meter(torch.device("cpu")).read(stall_s=0)
    rss = psutil.Process().memory_info().rss
    assert rss / 2 < gauges.host_bytes < rss * 2
    assert (gauges.device_peak_bytes, gauges.device_reserved_bytes) == (0, 0)


def test_meter_asks_the_system_for_memory_once_a_second_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment, asked = [5.0], [0]

    def memory(_process: psutil.Process) -> SimpleNamespace:
        asked[0] += 1
        return SimpleNamespace(rss=asked[0])

    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    monkeypatch.setattr(psutil.Process, "memory_info", memory)
    meter = Meter(torch.device("cpu"))
    seen = []
    for moment[0] in (5.0, 5.9, 6.0, 6.5, 9.0):
        seen.append(meter.read(stall_s=0).host_bytes)
    assert seen == [1, 1, 2, 2, 3]


def test_gauges_of_all_ranks_are_the_largest_when_their_rows_are_summed() -> None:
    def row(rank: int, gauges: Gauges) -> list[float]:
        world: Any = SimpleNamespace(dp_rank=rank, dp_world_size=3)
        return spread(gauges, cast(Any, world))

    rows = [
        row(0, Gauges(1, 9, 0, 5, 0, 1)),
        row(1, Gauges(7, 2, 0, 6, 3, 1)),
        row(2, Gauges(3, 3, 0.5, 4, 0, 1)),
    ]
    summed = [sum(column) for column in zip(*rows, strict=True)]
    assert largest(summed) == Gauges(7, 9, 0.5, 6, 3, 1)
