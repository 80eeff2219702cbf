"""The whole way from documents to batches, for random mixtures, packings and worlds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phaseline.config.batch_layout import BatchLayout
from phaseline.config.sections import Config, PhaseSection
from phaseline.data.batch_arrays import BatchArrays
from phaseline.data.cutting import build_rows
from phaseline.data.order import Mixture
from phaseline.data.phase_data import PhaseData
from phaseline.data.phase_rows import PhaseRows
from phaseline.data.rows import NO_LOSS, RowArrays
from phaseline.data.store import Store
from phaseline.data.stream import SampleStream
from phaseline.data.tokenizer import Tokenizer
from unit.data.stores import EOS, Segment, segments_of, side_of

LENGTH = 16
TOKENIZER = Tokenizer.of_bytes()
PAD = TOKENIZER.pad_id
# Of every document its length; of a pair, how much of it is prompt.
DOCUMENTS = st.lists(st.tuples(st.integers(1, 24), st.integers(0, 8)), min_size=1, max_size=9)


@dataclass
class Setting:
    """What a test draws."""

    shape: Any
    documents: list[list[tuple[int, int]]]
    weights: list[float]
    data: dict[str, Any]
    layout: BatchLayout


@st.composite
def setting_of(draw: st.DrawFn) -> Setting:
    documents = draw(st.lists(DOCUMENTS, min_size=1, max_size=3))
    weights = [draw(st.sampled_from([0.5, 1.0, 2.0, 3.0])) for _ in documents]
    global_size, micro_size, ranks = (draw(st.integers(1, most)) for most in (9, 3, 4))
    accumulation = -(-global_size // (micro_size * ranks))
    padding = accumulation * micro_size * ranks - global_size
    data = {
        "packing": draw(st.booleans()),
        "order": draw(st.sampled_from(["shuffled", "sequential"])),
    }
    layout = BatchLayout(global_size, micro_size, ranks, accumulation, padding)
    return Setting(draw(st.sampled_from(["text", "pairs"])), documents, weights, data, layout)


def phase_of(setting: Setting) -> PhaseSection:
    sources = [{"source": "text_files", "weight": weight} for weight in setting.weights]
    phase = {
        "name": "only",
        "objective": "causal_lm",
        "duration": "10 steps",
        "data": {"sources": sources, "sequence_length": LENGTH, **setting.data},
        "batch": {"global_size": setting.layout.global_size, "micro_size": 1},
        "optimizer": {"lr": 1.0},
    }
    return Config.model_validate(
        {"session": {"name": "test"}, "model": {}, "phases": [phase]}
    ).phases[0]


def open_data(setting: Setting) -> PhaseData:
    """Document d of a source is nothing but tokens 500 + d, so that every token tells its own."""
    phase, sources = phase_of(setting), []
    for documents in setting.documents:
        tokens = [
            [d % 100] * min(prompt, length - 1) + [500 + d] * (length - min(prompt, length - 1))
            if setting.shape == "pairs"
            else [500 + d] * length
            for d, (length, prompt) in enumerate(documents)
        ]
        side = side_of(tokens, is_text=setting.shape == "text")
        rows = build_rows(
            setting.shape,
            side,
            LENGTH,
            is_packed=phase.data.packing,
            is_ordered=phase.data.order == "sequential",
        )
        sources.append(PhaseRows("f", "c", Store(setting.shape, side, side, {}, {}), rows, rows))
    counts = [source.train.num_rows for source in sources]
    stream = SampleStream(
        counts,
        setting.weights,
        seed=1,
        phase_idx=0,
        global_size=setting.layout.global_size,
        is_shuffled=phase.data.order == "shuffled",
    )
    return PhaseData(phase, sources, stream, setting.layout, TOKENIZER)


def rows_of_step(data: PhaseData, step: int) -> list[tuple[int, list[Segment]]]:
    """Source and documents of every row of a global batch, in order, as the ranks have them."""
    rows = []
    for micro_step in range(data.layout.accumulation_steps):
        for rank in range(data.layout.dp_world_size):
            arrays = data.arrays(step, micro_step, rank)
            assert isinstance(arrays, BatchArrays)
            # Every rank runs as many micro-steps, of as many rows, whatever is left of the batch.
            assert len(arrays.inputs) == data.layout.micro_size
            assert (arrays.targets[arrays.num_samples :] == NO_LOSS).all()
            rows += _real_rows(arrays)
    assert len(rows) == data.layout.global_size
    return rows


def _real_rows(arrays: BatchArrays) -> list[tuple[int, list[Segment]]]:
    segments = segments_of(RowArrays(arrays.inputs, arrays.targets, arrays.positions), PAD)
    sources = [0] * len(segments) if arrays.sources is None else arrays.sources.tolist()
    return list(zip(sources, segments, strict=True))[: arrays.num_samples]


def require_one_document(segment: Segment) -> None:
    """No position sees a token of another document, or is to predict one."""
    inputs, targets = segment
    documents = {(token - 500) % 100 for token in inputs + targets if token not in (EOS, NO_LOSS)}
    assert len({document % 100 for document in documents}) <= 1
    assert EOS not in inputs[:-1]


@settings(max_examples=60, deadline=None)
@given(setting=setting_of())
def test_every_sample_comes_once_per_epoch_in_its_share_and_sees_no_other(
    setting: Setting,
) -> None:
    data = open_data(setting)
    num_rows = [source.num_rows for source in data._rows]
    if 0 in num_rows:
        return  # such a phase is refused when it is prepared
    expected = [_all_segments(data, idx) for idx in range(len(num_rows))]
    seen: list[list[list[Segment]]] = [[] for _ in num_rows]
    shares = np.array(setting.weights) / sum(setting.weights)
    step = 0
    while any(len(found) < count for found, count in zip(seen, num_rows, strict=True)):
        learnt = np.zeros(len(num_rows), np.int64)
        for source, segments in rows_of_step(data, step):
            seen[source].append(segments)
            for segment in segments:
                require_one_document(segment)
                learnt[source] += sum(target != NO_LOSS for target in segment[1])
            counts = np.array([len(found) for found in seen])
            assert np.abs(counts - shares * counts.sum()).max() < 1
        assert data.unit_counts(step, "tokens").tolist() == learnt.tolist()
        step += 1
        gone_through = [len(found) / n for found, n in zip(seen, num_rows, strict=True)]
        assert data.epochs(step) == gone_through
    for found, rows, wanted in zip(seen, num_rows, expected, strict=True):
        flat = Counter(str(segment) for segments in found[:rows] for segment in segments)
        assert flat == wanted


def _all_segments(data: PhaseData, source_idx: int) -> Counter[str]:
    rows = data._rows[source_idx]
    arrays = rows.take(np.arange(rows.num_rows), LENGTH, PAD) if rows.num_rows else None
    found = segments_of(arrays, PAD) if isinstance(arrays, RowArrays) else []
    return Counter(str(segment) for segments in found for segment in segments)


@settings(max_examples=30, deadline=None)
@given(setting=setting_of(), step=st.integers(0, 10**12))
def test_global_batch_is_the_same_on_any_ranks_at_any_position(setting: Setting, step: int) -> None:
    alone = setting.layout.global_size
    whole = Setting(
        setting.shape,
        setting.documents,
        setting.weights,
        setting.data,
        BatchLayout(alone, alone, 1, 1, 0),
    )
    data, expected = open_data(setting), open_data(whole)
    if 0 not in [source.num_rows for source in data._rows]:
        assert rows_of_step(data, step) == rows_of_step(expected, step)


@given(weights=st.lists(st.sampled_from([0.1, 1.0, 2.5, 7.0]), min_size=1, max_size=5))
def test_mixture_counts_what_lies_before_a_position(weights: list[float]) -> None:
    mixture = Mixture(weights)
    sources, _ = mixture.locate(np.arange(300))
    for position in (0, 1, 7, 150, 300):
        expected = np.bincount(sources[:position], minlength=len(weights)).tolist()
        assert mixture.counts_before(position) == expected


@pytest.mark.parametrize("num_rows", [1, 7, 100_000])
def test_sequential_stream_goes_through_each_source_in_its_order(num_rows: int) -> None:
    stream = SampleStream(
        [num_rows, 3], [2.0, 1.0], seed=9, phase_idx=1, global_size=6, is_shuffled=False
    )
    ids = np.concatenate([stream.sample_ids(step) for step in range(10)])
    for source_idx, total in enumerate((num_rows, 3)):
        found = ids[ids[:, 0] == source_idx, 1]
        assert found.tolist() == [idx % total for idx in range(len(found))]
