from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phaseline.data.rows import NO_LOSS, PairRows, TextRows, assemble, build_rows
from phaseline.data.store import SplitData

EOS, PAD = 900, 901

# Tokens of prompts below 100, of completions from 100 on.
PROMPTS = st.lists(st.integers(0, 99), max_size=30)
COMPLETIONS = st.lists(st.integers(100, 199), min_size=1, max_size=30)
PAIRS = st.lists(st.tuples(PROMPTS, COMPLETIONS), min_size=1, max_size=12)
Pairs = list[tuple[list[int], list[int]]]


def _text(num_tokens: int) -> SplitData:
    return SplitData(np.arange(num_tokens, dtype=np.uint16), np.array([0, num_tokens]), None)


def _pairs(pairs: Pairs) -> SplitData:
    documents = [[*prompt, *completion, EOS] for prompt, completion in pairs]
    return SplitData(
        np.array(list(chain(*documents)), np.uint16),
        np.cumsum([0, *map(len, documents)]),
        np.array([token >= 100 for token in chain(*documents)], np.uint8),
    )


@given(num_tokens=st.integers(0, 200), length=st.integers(1, 20))
def test_text_rows_predict_every_next_token_once_when_taken_in_order(
    num_tokens: int, length: int
) -> None:
    rows = TextRows(_text(num_tokens), length)
    assert rows.num_rows == max(0, num_tokens - 1) // length
    inputs, targets = rows.take(np.arange(rows.num_rows), length, PAD)
    covered = rows.num_rows * length
    assert inputs.ravel().tolist() == list(range(covered))
    assert targets.ravel().tolist() == list(range(1, covered + 1))
    assert rows.target_count(np.arange(rows.num_rows)) == covered


@given(pairs=PAIRS, length=st.integers(1, 40))
def test_pair_rows_have_loss_on_completions_only_when_cut_anywhere(
    pairs: Pairs, length: int
) -> None:
    rows = PairRows(_pairs(pairs), length)
    expected = []
    for prompt, completion in pairs:
        tokens = [*prompt, *completion, EOS][: length + 1]
        learnt = [token if token >= 100 else NO_LOSS for token in tokens[1:]]
        if any(token != NO_LOSS for token in learnt):
            expected.append((tokens[:-1], learnt))
    assert rows.num_rows == len(expected)
    assert rows.num_dropped == len(pairs) - len(expected)
    for row, (tokens, learnt) in enumerate(expected):
        ids = np.array([row])
        inputs, targets = rows.take(ids, length, PAD)
        padding = length - len(tokens)
        assert inputs.tolist() == [tokens + [PAD] * padding]
        assert targets.tolist() == [learnt + [NO_LOSS] * padding]
        assert rows.max_length(ids) == len(tokens)
        assert rows.target_count(ids) == sum(token != NO_LOSS for token in learnt)


def test_pair_rows_give_the_whole_prompt_when_the_row_is_cut() -> None:
    data = _pairs([([1] * 50, [100]), ([1, 2, 3], [100] * 50)])
    rows = PairRows(data, 8)
    assert (rows.num_rows, rows.num_dropped) == (1, 1)
    assert rows.prompt(0).tolist() == [1, 2, 3]


@pytest.mark.parametrize(("num_tokens", "time"), [(1, 8), (8, 8), (9, 16), (17, 20), (30, 20)])
def test_assemble_pads_to_a_multiple_of_eight_when_it_fits_the_sequence(
    num_tokens: int, time: int
) -> None:
    rows = PairRows(_pairs([([1], [100] * (num_tokens - 1))]) if num_tokens > 1 else _one(), 20)
    inputs, targets = assemble(
        [rows], np.array([[0, 0]]), num_rows=1, sequence_length=20, pad_id=PAD
    )
    assert inputs.shape == targets.shape == (1, time)
    assert inputs.dtype == targets.dtype == np.int64


def _one() -> SplitData:
    return SplitData(np.array([100, EOS], np.uint16), np.array([0, 2]), np.ones(2, np.uint8))


def test_assemble_keeps_the_order_when_sources_are_mixed_and_rows_are_missing() -> None:
    sources = [
        build_rows("pairs", _pairs([([1], [100]), ([2], [101] * 9)]), 16),
        build_rows("pairs", _pairs([([3], [102])]), 16),
    ]
    inputs, targets = assemble(
        sources,
        np.array([[1, 0], [0, 1], [0, 0]]),
        num_rows=5,
        sequence_length=16,
        pad_id=PAD,
    )
    assert inputs.shape == (5, 16)
    assert inputs[:, 0].tolist() == [3, 2, 1, PAD, PAD]
    assert inputs[:, 1].tolist() == [102, 101, 100, PAD, PAD]
    assert (targets[3:] == NO_LOSS).all()
    assert (targets != NO_LOSS).sum(axis=1).tolist() == [2, 10, 2, 0, 0]


def test_assemble_gives_filler_only_when_there_are_no_samples() -> None:
    rows = TextRows(_text(100), 16)
    empty = np.empty((0, 2), np.int64)
    inputs, targets = assemble([rows], empty, num_rows=2, sequence_length=16, pad_id=PAD)
    assert inputs.shape == (2, 8)
    assert (inputs == PAD).all()
    assert (targets == NO_LOSS).all()
