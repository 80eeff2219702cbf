from __future__ import annotations

import torch

from phaseline.distributed.engines import StepReport
from phaseline.distributed.world import World
from phaseline.training.phases.step_metrics import StepMetrics


def test_step_metrics_divide_by_the_targets_of_each_step(world: World) -> None:
    metrics = StepMetrics(world)
    for step, (loss, num_targets) in enumerate([(6.0, 3), (10.0, 4)], start=1):
        metrics.add(
            torch.tensor(loss),
            num_units=[num_targets],
            lr=0.1 * step,
            report=StepReport(grad_norm=step, skipped=step == 2),
            counters=(step, 10 + step, 100 * step),
        )
    rows = metrics.drain()
    assert [(r.phase_step, r.global_step, r.tokens) for r in rows] == [(1, 11, 100), (2, 12, 200)]
    assert [(r.loss, r.lr, r.grad_norm, r.skipped) for r in rows] == [
        (2.0, 0.1, 1, False),
        (2.5, 0.2, 2, True),
    ]
    assert rows[0].ended <= rows[1].ended


def test_step_metrics_are_forgotten_once_they_are_read(world: World) -> None:
    metrics = StepMetrics(world)
    assert metrics.drain() == []
    metrics.add(
        torch.tensor(1.0),
        num_units=[1],
        lr=0.1,
        report=StepReport(1.0, False),
        counters=(1, 1, 1),
    )
    assert len(metrics.drain()) == 1
    assert metrics.drain() == []


def test_step_metrics_keep_the_sources_of_a_mixture_apart(world: World) -> None:
    metrics = StepMetrics(world)
    for sums, num_targets in (([6.0, 4.0], [3, 1]), ([6.0, 0.0], [2, 0])):
        metrics.add(
            torch.tensor(sums),
            num_units=num_targets,
            lr=0.1,
            report=StepReport(1.0, False),
            counters=(1, 1, 1),
        )
    first, second = metrics.drain()
    assert (first.loss, first.source_losses) == (2.5, (2.0, 4.0))
    assert (second.loss, second.source_losses) == (3.0, (3.0, None))


def test_step_metrics_take_means_of_measures_over_the_units_of_all_sources(world: World) -> None:
    metrics = StepMetrics(world)
    metrics.add(
        torch.tensor([6.0, 4.0, 2.0, 10.0]),
        num_units=[3, 1],
        lr=0.1,
        report=StepReport(1.0, False),
        counters=(1, 1, 1),
    )
    [row] = metrics.drain([7.0])
    assert (row.loss, row.source_losses, row.measures) == (2.5, (2.0, 4.0), (0.5, 2.5))
    assert metrics.beside == [7.0]
