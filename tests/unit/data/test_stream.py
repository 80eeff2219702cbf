from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phaseline.data.stream import SampleStream


def _stream(
    num_rows: list[int],
    weights: list[float] | None = None,
    *,
    seed: int = 0,
    phase_idx: int = 0,
    global_size: int = 4,
) -> SampleStream:
    return SampleStream(
        num_rows,
        weights or [1.0] * len(num_rows),
        seed=seed,
        phase_idx=phase_idx,
        global_size=global_size,
    )


@given(num_rows=st.integers(1, 60), global_size=st.integers(1, 24))
def test_stream_gives_every_sample_once_per_epoch_when_batches_straddle_epochs(
    num_rows: int, global_size: int
) -> None:
    stream = _stream([num_rows], global_size=global_size)
    num_steps = -(-3 * num_rows // global_size)
    ids = np.concatenate([stream.sample_ids(step) for step in range(num_steps)])[: 3 * num_rows]
    for epoch in ids[:, 1].reshape(3, num_rows):
        assert sorted(epoch.tolist()) == list(range(num_rows))


@settings(max_examples=20)
@given(steps=st.lists(st.integers(0, 10**9), min_size=1, max_size=6), seed=st.integers(0, 2**40))
def test_stream_gives_the_same_samples_when_steps_come_in_any_order(
    steps: list[int], seed: int
) -> None:
    stream = _stream([70_000, 11], [0.8, 0.2], seed=seed)
    forward = {step: stream.sample_ids(step).tolist() for step in steps}
    for step in reversed(steps):
        assert stream.sample_ids(step).tolist() == forward[step]
        assert (
            _stream([70_000, 11], [0.8, 0.2], seed=seed).sample_ids(step).tolist() == forward[step]
        )


def test_stream_mixes_sources_by_weight_when_there_are_several() -> None:
    stream = _stream([10, 1000], [1.0, 3.0], global_size=8)
    ids = np.concatenate([stream.sample_ids(step) for step in range(20)])
    assert Counter(ids[:, 0].tolist()) == {0: 40, 1: 120}
    # The small source has gone round four times, each sample in each round.
    assert set(Counter(ids[ids[:, 0] == 0, 1].tolist()).values()) == {4}


@pytest.mark.parametrize("change", [{"seed": 1}, {"phase_idx": 1}])
def test_stream_differs_when_seed_or_phase_differ(change: dict[str, int]) -> None:
    first = _stream([1000]).sample_ids(0).tolist()
    assert _stream([1000], **change).sample_ids(0).tolist() != first  # type: ignore[arg-type]


def test_stream_ids_cannot_be_written_when_handed_out() -> None:
    with pytest.raises(ValueError, match="read-only"):
        _stream([10]).sample_ids(0)[0, 0] = 1
