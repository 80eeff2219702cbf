from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phaseline.data.rows import NO_LOSS, TextWindows, spans
from unit.data.stores import EOS, PAD, side_of

DOCUMENTS = st.lists(st.lists(st.integers(100, 199), max_size=25), min_size=1, max_size=12)


@given(documents=DOCUMENTS, length=st.integers(1, 20))
def test_windows_predict_every_next_token_within_its_document_when_cut_anywhere(
    documents: list[list[int]], length: int
) -> None:
    data = side_of(documents, is_text=True)
    rows = TextWindows(data, length)
    assert rows.num_rows == (len(data.tokens) - 1) // length
    ids = np.arange(rows.num_rows)
    inputs, targets, positions, _ = rows.take(ids, length, PAD)
    tokens = data.tokens.tolist()
    covered = rows.num_rows * length
    assert inputs.ravel().tolist() == tokens[:covered]
    expected = [
        NO_LOSS if token == EOS else following
        for token, following in pairwise(tokens[: covered + 1])
    ]
    assert targets.ravel().tolist() == expected
    counts = [sum(target != NO_LOSS for target in row) for row in targets.tolist()]
    assert rows.num_units(ids, "tokens").tolist() == counts
    assert rows.num_useful == sum(counts)
    # Positions begin again with each window, and in it with each document.
    begins = [idx for idx in range(covered) if idx % length == 0 or tokens[idx - 1] == EOS]
    wanted = [idx - max(begin for begin in begins if begin <= idx) for idx in range(covered)]
    if positions is None:
        assert wanted == [idx % length for idx in range(covered)]
    else:
        assert positions.ravel().tolist() == wanted


def test_windows_say_nothing_of_positions_when_no_row_holds_two_documents() -> None:
    # The second window ends with a document; its last input has no target.
    rows = TextWindows(side_of([[100] * 15, [101] * 15], is_text=True), 8)
    inputs, targets, positions, _ = rows.take(np.arange(3), 8, PAD)
    assert positions is None
    assert inputs[1, 7] == EOS
    assert targets[1].tolist() == [*[100] * 6, EOS, NO_LOSS]


@pytest.mark.parametrize(
    ("first", "end", "expected"),
    [([3, 9], [5, 9], [3, 4]), ([], [], []), ([0, 0], [2, 1], [0, 1, 0])],
)
def test_spans_are_the_numbers_between(
    first: list[int], end: list[int], expected: list[int]
) -> None:
    found = spans(np.array(first, np.int64), np.array(end, np.int64))
    assert found.tolist() == expected
