from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phaseline.data import sequence_rows
from phaseline.data.cutting import build_rows
from phaseline.data.rows import NO_LOSS
from phaseline.data.sequence_rows import SequenceRows
from unit.data.stores import EOS, LEARNT_FROM, PAD, Segment, segments_of, side_of

# Of any number of turns: what is read is below 100, what is learnt from 100 on.
SEQUENCES = st.lists(st.lists(st.integers(60, 139), max_size=40), min_size=1, max_size=14)
LENGTH = st.integers(1, 40)
HOW = st.sampled_from(["packed", "ordered", "alone"])


def _rows(shape: str, documents: list[list[int]], length: int, how: str = "packed") -> SequenceRows:
    rows = build_rows(
        shape,  # type: ignore[arg-type]  # one of the shapes
        side_of(documents, is_text=shape == "text"),
        length,
        is_packed=how != "alone",
        is_ordered=how == "ordered",
    )
    assert isinstance(rows, SequenceRows)
    return rows


def _segment(document: list[int], length: int) -> Segment:
    tokens = [*document, EOS][: length + 1]
    return tokens[:-1], [token if token >= LEARNT_FROM else NO_LOSS for token in tokens[1:]]


def _is_learnt(segment: Segment) -> bool:
    return any(target != NO_LOSS for target in segment[1])


def _all_of(rows: SequenceRows, length: int) -> list[list[Segment]]:
    ids = np.arange(rows.num_rows)
    return segments_of(rows.take(ids, length, PAD)) if len(ids) else []


@given(documents=SEQUENCES, length=LENGTH, how=HOW)
def test_rows_hold_every_sequence_once_with_its_own_targets_when_packed_anyhow(
    documents: list[list[int]], length: int, how: str
) -> None:
    rows = _rows("chats", documents, length, how)
    segments = [_segment(document, length) for document in documents]
    expected = [segment for segment in segments if _is_learnt(segment)]
    found = _all_of(rows, length)
    flat = [segment for row in found for segment in row]
    assert sorted(flat) == sorted(expected)
    if how == "ordered":
        assert flat == expected
    if how == "alone":
        assert [row[0] for row in found] == expected
    assert rows.num_dropped == len(documents) - len(expected)
    is_cut = [len(document) > length for document in documents]
    kept_cut = [cut and _is_learnt(s) for cut, s in zip(is_cut, segments, strict=True)]
    assert rows.num_truncated == sum(kept_cut)
    assert rows.num_useful == sum(len(inputs) for inputs, _ in expected)
    for idx, row in enumerate(found):
        ids = np.array([idx])
        assert rows.max_length(ids) == sum(len(inputs) for inputs, _ in row)
        learnt = sum(target != NO_LOSS for _, targets in row for target in targets)
        assert rows.num_units(ids, "tokens").tolist() == [learnt]


@given(documents=SEQUENCES, length=st.integers(2, 40))
def test_answers_of_a_preference_share_a_row_and_half_of_it_when_both_are_long(
    documents: list[list[int]], length: int
) -> None:
    documents = documents[: len(documents) // 2 * 2]
    rows = _rows("preferences", documents, length)
    expected = []
    for chosen, rejected in zip(documents[::2], documents[1::2], strict=True):
        lengths = len(chosen), len(rejected)
        most = [
            length // 2 if other > length // 2 else length - other for other in reversed(lengths)
        ]
        pair = _segment(chosen, most[0]), _segment(rejected, most[1])
        if all(map(_is_learnt, pair)):
            expected += [pair]
    found = _all_of(rows, length)
    pairs = [pair for row in found for pair in zip(row[::2], row[1::2], strict=True)]
    assert sorted(pairs) == sorted(expected)
    assert rows.num_dropped == len(documents) // 2 - len(expected)


@given(documents=SEQUENCES, length=LENGTH)
def test_text_goes_on_in_the_next_row_when_it_is_not_packed(
    documents: list[list[int]], length: int
) -> None:
    rows = _rows("text", documents, length, "alone")
    expected = []
    for document in documents:
        tokens = [*document, EOS]
        for first in range(0, len(tokens) - 1, length):
            piece = tokens[first : first + length + 1]
            expected.append((piece[:-1], piece[1:]))
    assert [row[0] for row in _all_of(rows, length)] == expected
    assert (rows.num_truncated, rows.num_prompts) == (0, 0)


def test_rows_give_whole_prompts_in_the_order_of_the_documents_when_packed() -> None:
    documents = [[1] * 50 + [100], [1, 2, 3] + [100] * 50, [4, 100, 5, 101], [103]]
    rows = _rows("chats", documents, 8)
    assert (rows.num_dropped, rows.num_truncated, rows.num_prompts) == (1, 1, 3)
    prompts = [rows.prompt(idx).tolist() for idx in range(rows.num_prompts)]
    assert prompts == [[1, 2, 3], [4], []]


def test_targets_are_counted_alike_when_a_store_is_counted_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    documents = [[7] * (idx % 5) + [100] * (idx % 7) for idx in range(200)]
    ids = np.arange(_rows("pairs", documents, 9, "alone").num_rows)
    whole = _rows("pairs", documents, 9, "alone").num_units(ids, "tokens")
    monkeypatch.setattr(sequence_rows, "_TOKENS_AT_ONCE", 3)
    assert _rows("pairs", documents, 9, "alone").num_units(ids, "tokens").tolist() == whole.tolist()


def test_most_positions_are_useful_when_pairs_are_ragged() -> None:
    lengths = np.random.default_rng(0).lognormal(np.log(60), 0.9, 4000).astype(int).clip(4, 400)
    documents = [[1] * (length // 3) + [100] * (length - length // 3) for length in lengths]
    useful = {
        how: rows.num_useful / (rows.num_rows * 512)
        for how, rows in {
            how: _rows("pairs", documents, 512, how) for how in ("packed", "alone")
        }.items()
    }
    assert useful["packed"] >= 0.97
    assert useful["alone"] < 0.3


@pytest.mark.parametrize("how", ["packed", "ordered", "alone"])
def test_pairs_have_the_same_numbers_however_rows_are_packed(how: str) -> None:
    # The third pair has nothing to learn, and is left out before pairs are numbered.
    answers = [[1, 100 + idx, *[110] * (idx % 5)] for idx in range(12)]
    answers[4] = answers[5] = [1, 2]
    answers[4] = [3] * 20
    rows = _rows("preferences", answers, 16, how)
    kept = [pair for pair in range(6) if pair != 2]
    assert rows.num_pairs == len(kept)
    arrays = rows.take(np.arange(rows.num_rows), 16, PAD)
    assert arrays.pairs is not None
    assert arrays.pairs.dtype == np.int64
    seen = []
    for row, documents in zip(arrays.pairs.tolist(), segments_of(arrays), strict=True):
        numbers = [number for number in row if number >= 0]
        assert row == numbers + [-1] * (len(row) - len(numbers))
        assert len(documents) == 2 * len(numbers)
        seen += numbers
        for place, number in enumerate(numbers):
            for side in range(2):
                whole = answers[2 * kept[number] + side]
                inputs, _ = documents[2 * place + side]
                assert inputs == [*whole, EOS][: len(inputs)]
                assert inputs[1] == whole[1]
    assert sorted(seen) == list(range(len(kept)))


def test_rows_of_other_shapes_have_no_pairs() -> None:
    rows = _rows("pairs", [[1, 100], [2, 101]], 16)
    assert rows.num_pairs == 0
    assert rows.take(np.arange(rows.num_rows), 16, PAD).pairs is None
