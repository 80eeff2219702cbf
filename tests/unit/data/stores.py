"""Sides of stores for tests, made of lists of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from phaseline.data.rows import NO_LOSS, RowArrays
from phaseline.data.store import SplitData

EOS, PAD = 900, 901
LEARNT_FROM = 100
"""Tokens from here on are learnt, those below are only read."""

Segment = tuple[list[int], list[int]]


def side_of(documents: Sequence[Sequence[int]], *, is_text: bool = False) -> SplitData:
    """Documents with their end-of-sequence tokens."""
    tokens = list(chain.from_iterable([*document, EOS] for document in documents))
    learnt = np.array([token >= LEARNT_FROM for token in tokens], np.uint8)
    offsets = np.cumsum([0, *(len(document) + 1 for document in documents)])
    return SplitData(np.array(tokens, np.uint16), offsets, None if is_text else learnt)


def segments_of(arrays: RowArrays, pad_id: int = PAD) -> list[list[Segment]]:
    """Inputs and targets of every document of every row, without padding at a row's end."""
    rows = []
    time = arrays.inputs.shape[1]
    for row in range(len(arrays.inputs)):
        inputs, targets = arrays.inputs[row].tolist(), arrays.targets[row].tolist()
        positions = (
            list(range(time)) if arrays.positions is None else arrays.positions[row].tolist()
        )
        begins = [column for column, position in enumerate(positions) if position == 0]
        assert positions == [
            column - max(begin for begin in begins if begin <= column) for column in range(time)
        ]
        segments = [
            _without_padding(inputs[begin:end], targets[begin:end], pad_id)
            for begin, end in zip(begins, [*begins[1:], time], strict=True)
        ]
        rows.append(segments)
    return rows


def _without_padding(inputs: list[int], targets: list[int], pad_id: int) -> Segment:
    length = len(inputs)
    while length and inputs[length - 1] == pad_id:
        assert targets[length - 1] == NO_LOSS
        length -= 1
    return inputs[:length], targets[:length]
