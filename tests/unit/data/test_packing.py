from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phaseline.data.packing import Ids, Packing, best_fit, in_order, one_per_row

CAPACITY = 30
LENGTHS = st.lists(st.integers(1, CAPACITY), max_size=60).map(lambda x: np.array(x, np.int64))
Pack = Callable[[Ids, int], Packing]


def _rows(packing: Packing) -> list[list[int]]:
    pairs = zip(packing.offsets[:-1], packing.offsets[1:], strict=True)
    return [packing.members[first:end].tolist() for first, end in pairs]


def _room_left_by_visiting_every_row(lengths: Ids, capacity: int) -> list[int]:
    """Best-fit decreasing as it is defined."""
    room: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [idx for idx, left in enumerate(room) if left >= length]
        if fitting:
            room[min(fitting, key=lambda idx: room[idx])] -= length
        else:
            room.append(capacity - length)
    return sorted(room)


@pytest.mark.parametrize("pack", [best_fit, in_order, one_per_row])
@given(lengths=LENGTHS)
def test_packing_holds_every_item_once_and_no_row_overflows(pack: Pack, lengths: Ids) -> None:
    rows = _rows(pack(lengths, CAPACITY))
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(0 < lengths[row].sum() <= CAPACITY for row in rows)


@given(lengths=LENGTHS)
def test_best_fit_leaves_the_room_that_visiting_every_row_leaves(lengths: Ids) -> None:
    rows = _rows(best_fit(lengths, CAPACITY))
    left = sorted(CAPACITY - int(lengths[row].sum()) for row in rows)
    assert left == _room_left_by_visiting_every_row(lengths, CAPACITY)


@given(lengths=LENGTHS)
def test_in_order_begins_a_row_only_where_the_next_item_does_not_fit(lengths: Ids) -> None:
    packing = in_order(lengths, CAPACITY)
    assert packing.members.tolist() == list(range(len(lengths)))
    for first, end in zip(packing.offsets[:-2], packing.offsets[1:-1], strict=True):
        assert lengths[first:end].sum() + lengths[end] > CAPACITY


def test_best_fit_packs_a_million_ragged_items_tightly_and_fast() -> None:
    lengths = np.random.default_rng(0).lognormal(np.log(300), 1.0, 1_000_000)
    clipped = np.clip(lengths, 1, 2048).astype(np.int64)
    start = time.process_time()
    packing = best_fit(clipped, 2048)
    # It takes 0.2 s; visiting rows one by one would take minutes.
    assert time.process_time() - start < 10
    assert clipped.sum() / (packing.num_rows * 2048) > 0.99
