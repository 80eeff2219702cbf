from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phaseline.config.batch_layout import MAX_WASTED_FRAC, BatchLayout
from phaseline.errors import ConfigurationError


@pytest.mark.parametrize(
    ("sizes", "accumulation_steps", "padding_rows"),
    [
        ((32, 8, 2), 2, 0),
        ((8, 4, 1), 2, 0),
        ((31, 8, 2), 2, 1),
        ((95, 4, 4), 6, 1),
        ((1, 1, 1), 1, 0),
    ],
)
def test_derive_fills_up_when_batch_does_not_divide(
    sizes: tuple[int, int, int], accumulation_steps: int, padding_rows: int
) -> None:
    layout = BatchLayout.derive(*sizes)
    assert (layout.accumulation_steps, layout.padding_rows) == (accumulation_steps, padding_rows)


def test_derive_suggests_sizes_when_too_much_is_padding() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"phases\[1\]\.batch spreads 33 sequences over 2 ranks in micro-batches of 8: "
        r"15 of 48 computed rows would be padding \(31%\); at most 10% may be\. "
        r"Set micro_size to 6, or global_size to 32 or 48\.",
    ):
        BatchLayout.derive(33, 8, 2, path="phases[1].batch")


def test_derive_suggests_global_size_when_ranks_outnumber_sequences() -> None:
    with pytest.raises(ConfigurationError, match=r"Set global_size to 8\."):
        BatchLayout.derive(4, 1, 8)


@given(st.integers(1, 5000), st.integers(1, 64), st.integers(1, 64))
def test_derive_covers_the_batch_or_refuses_when_sizes_are_any(
    global_size: int, micro_size: int, dp_world_size: int
) -> None:
    computed = -(-global_size // (micro_size * dp_world_size)) * micro_size * dp_world_size
    try:
        layout = BatchLayout.derive(global_size, micro_size, dp_world_size)
    except ConfigurationError:
        assert (computed - global_size) / computed > MAX_WASTED_FRAC
        return
    assert layout.accumulation_steps * micro_size * dp_world_size == computed
    assert layout.global_size + layout.padding_rows == computed
    assert layout.wasted_frac <= MAX_WASTED_FRAC


@given(st.integers(1, 2000), st.integers(1, 200), st.integers(1, 300))
def test_derive_suggests_the_largest_micro_batch_that_wastes_little(
    global_size: int, micro_size: int, dp_world_size: int
) -> None:
    try:
        BatchLayout.derive(global_size, micro_size, dp_world_size)
        return
    except ConfigurationError as error:
        fix = error.faults[0].fix
    fitting = [
        size
        for size in range(1, micro_size)
        if -global_size % (size * dp_world_size)
        <= MAX_WASTED_FRAC * (global_size + -global_size % (size * dp_world_size))
    ]
    found = re.search(r"micro_size to (\d+)", fix)
    assert (int(found[1]) if found else None) == max(fitting, default=None)


@pytest.mark.parametrize(
    ("sizes", "fix"),
    [
        ((10**9, 999_989, 1_000_003), "Set micro_size to 1111."),
        ((1_000_000, 999_999, 999_983), "Use fewer ranks."),
        ((3, 10**6, 102_400_000), "Use fewer ranks."),
    ],
)
def test_derive_suggests_at_once_when_sizes_are_as_large_as_may_be(
    sizes: tuple[int, int, int], fix: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        BatchLayout.derive(*sizes)
    assert raised.value.faults[0].fix.startswith(fix)
