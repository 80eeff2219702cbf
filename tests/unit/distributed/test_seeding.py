from __future__ import annotations

import itertools
import random

import numpy as np
import torch

from phaseline.distributed.seeding import position_seed, seed_all

CPU = torch.device("cpu")


def draws() -> tuple[float, float, float, torch.Tensor]:
    dropped = torch.nn.functional.dropout(torch.ones(64), 0.5)
    return random.random(), float(np.random.rand()), float(torch.rand(())), dropped


def test_position_seed_differs_by_every_coordinate_and_by_their_order() -> None:
    positions = list(itertools.product(range(4), repeat=5))
    assert len({position_seed(*position) for position in positions}) == len(positions)


def test_position_seed_keeps_the_borders_between_numbers() -> None:
    positions = [(1, 23), (12, 3), (123,), (1, 2, 3), (0, 123), (-1, 23)]
    assert len({position_seed(*position) for position in positions}) == len(positions)


def test_position_seed_never_changes() -> None:
    # Sessions that were begun with an older version go on with the same draws.
    assert position_seed(0) == 8493733112532773764
    assert position_seed(1, 0, 2, 3, 1) == 16215589343715438127


def test_seed_all_gives_the_same_draws_again_when_reseeded() -> None:
    seed_all(position_seed(7, 1), CPU)
    first = draws()
    seed_all(position_seed(7, 2), CPU)
    other = draws()
    seed_all(position_seed(7, 1), CPU)
    again = draws()
    assert first[:3] == again[:3]
    assert torch.equal(first[3], again[3])
    assert all(mine != theirs for mine, theirs in zip(first[:3], other[:3], strict=True))


def test_seed_all_takes_the_largest_seed() -> None:
    seed_all(2**64 - 1, CPU)
    seed_all(0, CPU)
