from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phaseline.config.batch_layout import BatchLayout
from phaseline.config.sections import Config
from phaseline.data.batch import AnyBatch, Batch
from phaseline.data.phase_data import PhaseData, open_phase_data
from phaseline.data.preparation import prepare
from phaseline.data.rows import NO_LOSS
from phaseline.errors import DataError

MakeConfig = Callable[..., Config]
LENGTH = 64  # of pairs, so that the longest are cut

# The fixtures only make text files and a function, which examples may share.
layouts = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _layout(global_size: int, micro_size: int, dp_world_size: int) -> BatchLayout:
    """Any layout, also one that wastes more than a session may."""
    accumulation = -(-global_size // (micro_size * dp_world_size))
    padding = accumulation * micro_size * dp_world_size - global_size
    return BatchLayout(global_size, micro_size, dp_world_size, accumulation, padding)


def _open(config: Config, layout: BatchLayout | None = None) -> PhaseData:
    prepare(config, lambda _: None)
    return open_phase_data(config, 0, layout or BatchLayout.derive(8, 2, 1))


def _samples(batch: AnyBatch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Inputs and targets of the real rows, without padding."""
    assert isinstance(batch, Batch)
    samples = []
    for inputs, targets in zip(
        batch.input_ids[: batch.rows].tolist(), batch.targets[: batch.rows].tolist(), strict=True
    ):
        length = max(column for column, target in enumerate(targets) if target != NO_LOSS) + 1
        samples.append((tuple(inputs[:length]), tuple(targets[:length])))
    return samples


def _global_batch(data: PhaseData, layout: BatchLayout, step: int) -> list[Any]:
    """Samples of a whole step in order: micro-steps one after the other, in each all ranks."""
    samples = []
    for micro_step in range(layout.accumulation_steps):
        for dp_rank in range(layout.dp_world_size):
            batch = data.micro_batch(step, micro_step, dp_rank)
            assert isinstance(batch, Batch)
            assert batch.input_ids.shape == batch.targets.shape
            assert len(batch.input_ids) == layout.micro_size
            assert (batch.targets[batch.rows :] == NO_LOSS).all()
            samples += _samples(batch)
    return samples


@pytest.fixture
def text_config(corpus: str, make_config: MakeConfig) -> Config:
    return make_config(
        {"source": "text_files", "arguments": {"paths": [corpus]}},
        batch={"global_size": 12, "micro_size": 2},
    )


@pytest.fixture
def pair_config(pairs_source: str, make_config: MakeConfig) -> Config:
    return _mixture_of_pairs(pairs_source, make_config, packing=False)


@pytest.fixture
def packed_config(pairs_source: str, make_config: MakeConfig) -> Config:
    return _mixture_of_pairs(pairs_source, make_config)


def _mixture_of_pairs(source: str, make_config: MakeConfig, **data: Any) -> Config:
    return make_config(
        _pairs(source, "one", 70),
        {**_pairs(source, "two", 30), "weight": 0.5},
        objective="sft",
        sequence_length=LENGTH,
        batch={"global_size": 12, "micro_size": 2},
        data=data,
    )


def _pairs(source: str, name: str, count: int) -> dict[str, Any]:
    return {"source": source, "arguments": {"name": name, "count": count}}


@layouts
@given(micro_size=st.integers(1, 13), dp_world_size=st.integers(1, 5), step=st.integers(0, 10**9))
@pytest.mark.parametrize("kind", ["text", "pairs", "packed"])
def test_global_batch_is_the_same_when_the_layout_is_any(
    kind: str,
    text_config: Config,
    pair_config: Config,
    packed_config: Config,
    micro_size: int,
    dp_world_size: int,
    step: int,
) -> None:
    config = {"text": text_config, "pairs": pair_config, "packed": packed_config}[kind]
    whole = _layout(12, 12, 1)
    expected = _global_batch(_open(config, whole), whole, step)
    assert len(expected) == 12
    layout = _layout(12, micro_size, dp_world_size)
    data = _open(config, layout)
    assert _global_batch(data, layout, step) == expected
    num_targets = sum(target != NO_LOSS for _, targets in expected for target in targets)
    assert data.unit_counts(step, "tokens").sum() == num_targets


def test_epoch_covers_every_window_once_when_text_is_trained(text_config: Config) -> None:
    layout = BatchLayout.derive(12, 2, 2)
    data = _open(text_config, layout)
    assert data.samples_per_epoch is not None
    num_steps = -(-data.samples_per_epoch // 12)
    samples = [
        inputs for step in range(num_steps) for inputs, _ in _global_batch(data, layout, step)
    ]
    assert len(set(samples[: data.samples_per_epoch])) == data.samples_per_epoch
    ids = np.concatenate([data.sample_ids(step) for step in range(num_steps)])
    assert sorted(ids[: data.samples_per_epoch, 1]) == list(range(data.samples_per_epoch))


def test_phase_data_says_its_sizes_when_opened(text_config: Config) -> None:
    data = _open(text_config, BatchLayout.derive(12, 2, 1))
    assert data.sequence_length == 16
    assert data.tokens_per_step == 12 * 16
    assert data.source_names == ("text_files",)
    assert data.sample_ids(0).shape == (12, 2)
    assert len(data.token_bytes) == data.tokenizer.vocab_size
    assert len(data.fingerprint) == 32


def test_samples_per_epoch_is_none_when_sources_are_mixed(pair_config: Config) -> None:
    assert _open(pair_config, BatchLayout.derive(12, 2, 1)).samples_per_epoch is None


def test_targets_are_the_completions_when_pairs_are_trained(pair_config: Config) -> None:
    layout = BatchLayout.derive(12, 2, 1)
    data = _open(pair_config, layout)
    num_cut = 0
    for inputs, targets in _global_batch(data, layout, 0) + _global_batch(data, layout, 1):
        prompt, completion = data.tokenizer.decode(inputs).split(":")
        learnt = [target for target in targets if target != NO_LOSS]
        assert prompt.startswith("ask ")
        # Of a whole pair the end of the sequence is a target, but never an input.
        if learnt[-1] == data.tokenizer.eos_id:
            assert data.tokenizer.decode(learnt) == completion
        else:
            num_cut += 1
            assert len(inputs) == LENGTH
            assert data.tokenizer.decode(learnt[:-1]) == completion
    assert 0 < num_cut < 24


def test_batches_are_padded_to_multiples_of_eight_when_pairs_are_short(
    pair_config: Config,
) -> None:
    data = _open(pair_config, BatchLayout.derive(12, 2, 1))
    times = {data.arrays(step, 0, 0)[0].shape[1] for step in range(30)}
    assert len(times) > 1
    assert all(time % 8 == 0 and time <= LENGTH for time in times)


@layouts
@given(micro_size=st.integers(1, 9), dp_world_size=st.integers(1, 4))
def test_held_out_gives_every_sequence_once_when_the_world_is_any(
    text_config: Config, micro_size: int, dp_world_size: int
) -> None:
    held_out = _open(text_config, BatchLayout.derive(12, 2, 1)).held_out
    num_batches = held_out.num_batches(dp_world_size, micro_size)
    samples = []
    for batch_idx in range(num_batches):
        for dp_rank in range(dp_world_size):
            batch = held_out.batch(batch_idx, dp_rank, dp_world_size, micro_size)
            assert isinstance(batch, Batch)
            assert len(batch.input_ids) == micro_size
            assert (batch.targets[batch.rows :] == NO_LOSS).all()
            samples += _samples(batch)
    assert len(samples) == held_out.num_sequences
    alone = [_samples(held_out.batch(idx, 0, 1, 1))[0] for idx in range(held_out.num_sequences)]
    assert samples == alone


def test_held_out_shares_no_sequence_with_training_when_text_is_split(
    text_config: Config,
) -> None:
    layout = BatchLayout.derive(12, 12, 1)
    data = _open(text_config, layout)
    assert data.samples_per_epoch is not None
    trained = {
        inputs
        for step in range(-(-data.samples_per_epoch // 12))
        for inputs, _ in _global_batch(data, layout, step)
    }
    held_out = {
        _samples(data.held_out.batch(idx, 0, 1, 1))[0][0]
        for idx in range(data.held_out.num_sequences)
    }
    assert not trained & held_out


def test_held_out_is_spread_evenly_when_it_is_limited(corpus: str, make_config: MakeConfig) -> None:
    source = {"source": "text_files", "arguments": {"paths": [corpus]}}
    every = _open(make_config(source, evaluate={"sequence_length": 8})).held_out
    some = _open(make_config(source, evaluate={"sequence_length": 8, "max_sequences": 5})).held_out
    assert some.num_sequences == 5
    assert every.num_sequences > 10
    chosen = [idx * every.num_sequences // 5 for idx in range(5)]
    assert [_samples(some.batch(idx, 0, 1, 1)) for idx in range(5)] == [
        _samples(every.batch(idx, 0, 1, 1)) for idx in chosen
    ]


def test_sweep_goes_through_every_row_of_a_side_once(corpus: str, make_config: MakeConfig) -> None:
    source = {"source": "text_files", "arguments": {"paths": [corpus]}}
    data = _open(make_config(source, evaluate={"max_sequences": 2}))
    for side, num_rows in (("train", data.samples_per_epoch), ("held_out", None)):
        sweep = data.sweep("train" if side == "train" else "held_out")
        assert num_rows in (None, sweep.num_sequences)
        assert sweep.num_sequences > 2
        seen = [
            sample
            for idx in range(sweep.num_batches(2, 3))
            for rank in range(2)
            for sample in _samples(sweep.batch(idx, rank, 2, 3))
        ]
        assert len(seen) == len({inputs for inputs, _ in seen}) == sweep.num_sequences


def test_held_out_prompts_are_whole_when_pairs_are_held_out(pair_config: Config) -> None:
    data = _open(pair_config, BatchLayout.derive(12, 2, 1))
    prompts = data.held_out_prompts(5)
    assert len(set(prompts)) == 5
    assert all(re.fullmatch(r"ask (one|two) \d+:", prompt) for prompt in prompts)
    assert len(data.held_out_prompts(10**6)) == data.held_out.num_sequences


def test_held_out_prompts_are_refused_when_the_phase_trains_on_text(text_config: Config) -> None:
    with pytest.raises(DataError, match="of a phase that trains on text"):
        _open(text_config, BatchLayout.derive(12, 2, 1)).held_out_prompts(3)


def test_phase_data_is_refused_when_nothing_is_prepared(text_config: Config) -> None:
    with pytest.raises(DataError, match="'text_files' is not prepared"):
        open_phase_data(text_config, 0, BatchLayout.derive(12, 2, 1))


def test_fingerprint_differs_when_the_content_differs(
    pairs_source: str, make_config: MakeConfig
) -> None:
    configs = [
        make_config(_pairs(pairs_source, name, 50), sequence_length=LENGTH, objective="sft")
        for name in ("one", "two")
    ]
    fingerprints = {_open(config).fingerprint for config in configs}
    assert len(fingerprints) == 2
