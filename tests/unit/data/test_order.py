from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phaseline.data.order import LARGEST_SORTED, LONGEST_PERIOD, EpochOrder, Mixture, permutation

KEYS = st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 100))


@given(num_items=st.integers(1, 400), key=KEYS)
def test_permutation_takes_every_item_once_when_small(num_items: int, key: tuple[int, int]) -> None:
    ids = permutation(num_items, *key)(np.arange(num_items))
    assert sorted(ids.tolist()) == list(range(num_items))


@settings(max_examples=10)
@given(num_items=st.integers(LARGEST_SORTED + 1, 300_000), key=KEYS)
def test_permutation_takes_every_item_once_when_large(num_items: int, key: tuple[int, int]) -> None:
    ids = permutation(num_items, *key)(np.arange(num_items))
    assert np.array_equal(np.sort(ids), np.arange(num_items))


@given(num_items=st.integers(LARGEST_SORTED + 1, 2**62), key=KEYS, data=st.data())
def test_permutation_stays_in_range_when_huge(
    num_items: int, key: tuple[int, int], data: st.DataObject
) -> None:
    positions = data.draw(st.lists(st.integers(0, num_items - 1), min_size=1, unique=True))
    ids = permutation(num_items, *key)(np.array(positions)).tolist()
    assert len(set(ids)) == len(ids)
    assert all(0 <= item < num_items for item in ids)


@pytest.mark.parametrize("num_items", [1_000, LARGEST_SORTED + 1])
def test_permutation_differs_when_any_part_of_the_key_differs(num_items: int) -> None:
    positions = np.arange(500)
    orders = {
        tuple(permutation(num_items, *key)(positions).tolist())
        for key in [(0, 0), (1, 0), (0, 1), (0, 0, 0), ("0", 0)]
    }
    assert len(orders) == 5


def test_permutation_is_what_it_always_was_when_versions_change() -> None:
    # A change here changes the data order of every session that is under way.
    assert permutation(10, "order", 0, 0)(np.arange(10)).tolist() == [0, 1, 3, 6, 5, 2, 7, 9, 8, 4]
    large = permutation(1_000_000, "order", 0, 0)(np.arange(5))
    assert large.tolist() == [390681, 171998, 118329, 392182, 251296]


@pytest.mark.parametrize("num_items", [2_000, LARGEST_SORTED + 1])
def test_permutation_mixes_when_positions_are_neighbours(num_items: int) -> None:
    ids = permutation(num_items, 7)(np.arange(num_items))
    assert abs(np.corrcoef(np.arange(num_items), ids)[0, 1]) < 0.1
    assert abs(np.corrcoef(ids[:-1], ids[1:])[0, 1]) < 0.1


@given(num_items=st.integers(1, 50), num_epochs=st.integers(1, 5), key=KEYS)
def test_epoch_order_gives_every_id_once_per_epoch_when_epochs_pass(
    num_items: int, num_epochs: int, key: tuple[int, int]
) -> None:
    ids = EpochOrder(num_items, *key).ids(np.arange(num_items * num_epochs))
    for epoch in ids.reshape(num_epochs, num_items):
        assert sorted(epoch.tolist()) == list(range(num_items))


@given(num_items=st.integers(1, 50), start=st.integers(0, 10**15), key=KEYS)
def test_epoch_order_gives_the_same_ids_when_started_anywhere(
    num_items: int, start: int, key: tuple[int, int]
) -> None:
    positions = np.arange(start, start + 70)
    whole = EpochOrder(num_items, *key).ids(positions)
    order = EpochOrder(num_items, *key)
    backwards = [int(order.ids(positions[i : i + 1])[0]) for i in reversed(range(70))]
    assert backwards[::-1] == whole.tolist()


@given(weights=st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_mixture_is_within_one_sample_of_each_share_at_every_prefix(weights: list[int]) -> None:
    mixture = Mixture(weights)
    sources, _ = mixture.locate(np.arange(2 * mixture.period))
    prefix = np.arange(1, len(sources) + 1)
    for source_idx, weight in enumerate(weights):
        count = np.cumsum(sources == source_idx)
        # In whole numbers, so that no rounding hides a miss: |count - share| < 1.
        assert (np.abs(count * sum(weights) - weight * prefix) < sum(weights)).all()


@given(
    weights=st.lists(st.integers(1, 40).map(lambda tenths: tenths / 10), min_size=1, max_size=5),
    start=st.integers(0, 10**12),
)
def test_mixture_counts_on_within_each_source_when_started_anywhere(
    weights: list[float], start: int
) -> None:
    mixture = Mixture(weights)
    sources, within = mixture.locate(np.arange(start, start + 300))
    for source_idx in range(len(weights)):
        steps = np.diff(within[sources == source_idx])
        assert (steps == 1).all()


@settings(max_examples=25)
@given(weights=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=6))
def test_mixture_shares_are_near_the_weights_when_they_are_any_floats(
    weights: list[float],
) -> None:
    mixture = Mixture(weights)
    assert min(mixture.shares) >= 1
    assert mixture.period <= LONGEST_PERIOD + len(weights)
    for share, weight in zip(mixture.shares, weights, strict=True):
        assert abs(share / mixture.period - weight / sum(weights)) < 1e-4


@pytest.mark.parametrize(
    ("weights", "shares"),
    [((1.0,), (1,)), ((3.0,), (1,)), ((0.7, 0.3), (7, 3)), ((0.1, 0.2), (1, 2)), ((4, 2), (2, 1))],
)
def test_mixture_shares_are_the_exact_ratio_when_it_is_short(
    weights: tuple[float, ...], shares: tuple[int, ...]
) -> None:
    assert Mixture(weights).shares == shares
