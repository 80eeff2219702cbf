from __future__ import annotations

import numpy as np
import pytest

from phaseline.data.batch_arrays import BatchArrays, BatchAssembler
from phaseline.data.cutting import build_rows
from phaseline.data.rows import NO_LOSS, Ids, Rows
from unit.data.stores import PAD, side_of


def _pairs(documents: list[list[int]], length: int, *, is_packed: bool = False) -> Rows:
    return build_rows("pairs", side_of(documents), length, is_packed=is_packed)


def _assemble(
    sources: list[Rows], ids: Ids, num_rows: int, length: int, *, is_separate: bool = True
) -> BatchArrays:
    assembler = BatchAssembler(sources, sequence_length=length, pad_id=PAD, is_separate=is_separate)
    return assembler.assemble(ids, num_rows)


@pytest.mark.parametrize(("num_inputs", "time"), [(1, 8), (8, 8), (9, 16), (17, 20), (30, 20)])
def test_batch_is_padded_to_a_multiple_of_eight_when_it_fits_the_sequence(
    num_inputs: int, time: int
) -> None:
    rows = _pairs([[100] * num_inputs], 20)
    arrays = _assemble([rows], np.array([[0, 0]]), 1, 20)
    assert arrays.inputs.shape == arrays.targets.shape == (1, time)
    assert arrays.inputs.dtype == arrays.targets.dtype == np.int64
    assert arrays.positions is None
    assert arrays.sources is None


def test_batch_keeps_the_order_when_sources_are_mixed_and_rows_are_missing() -> None:
    sources = [_pairs([[1, 100], [2, *[101] * 9]], 16), _pairs([[3, 102]], 16)]
    arrays = _assemble(sources, np.array([[1, 0], [0, 1], [0, 0]]), 5, 16)
    assert arrays.inputs.shape == (5, 16)
    assert arrays.inputs[:, 0].tolist() == [3, 2, 1, PAD, PAD]
    assert arrays.inputs[:, 1].tolist() == [102, 101, 100, PAD, PAD]
    assert (arrays.targets[3:] == NO_LOSS).all()
    assert (arrays.targets != NO_LOSS).sum(axis=1).tolist() == [2, 10, 2, 0, 0]
    assert arrays.sources is not None
    assert arrays.sources.tolist() == [1, 0, 0, 0, 0]
    assert arrays.num_samples == 3


def test_batch_is_filler_only_when_there_are_no_samples() -> None:
    arrays = _assemble([_pairs([[1, 100]], 16)], np.empty((0, 2), np.int64), 2, 16)
    assert arrays.inputs.shape == (2, 8)
    assert (arrays.inputs == PAD).all()
    assert (arrays.targets == NO_LOSS).all()


@pytest.mark.parametrize("num_rows", [1, 2])
def test_batch_tells_where_documents_begin_unless_they_may_see_each_other(num_rows: int) -> None:
    rows = _pairs([[1, 100], [2, 3, 101]], 8, is_packed=True)
    ids = np.array([[0, 0]])
    apart = _assemble([rows], ids, num_rows, 8)
    joined = _assemble([rows], ids, num_rows, 8, is_separate=False)
    assert apart.positions is not None
    assert apart.positions[0].tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert joined.positions is None
    assert np.array_equal(joined.inputs, apart.inputs)
    assert np.array_equal(joined.targets, apart.targets)


def _preferences(num_pairs: int, length: int) -> Rows:
    answers = [[1, 100 + idx] for idx in range(2 * num_pairs)]
    return build_rows("preferences", side_of(answers), length, is_packed=True)


def test_batch_numbers_pairs_on_over_its_sources() -> None:
    sources = [_preferences(3, 8), _preferences(2, 8)]
    assert [rows.num_rows for rows in sources] == [2, 1]
    alone = _assemble(sources[:1], np.array([[0, 0], [0, 1]]), 2, 8)
    assert alone.pairs is not None
    assert sorted(alone.pairs.ravel().tolist()) == [-1, 0, 1, 2]
    mixed = _assemble(sources, np.array([[1, 0], [0, 0], [0, 1]]), 4, 8)
    assert mixed.pairs is not None
    assert sorted(mixed.pairs[0].tolist()) == [3, 4]
    assert mixed.pairs[1:3].tolist() == alone.pairs.tolist()
    assert mixed.pairs[3].tolist() == [-1, -1]


def test_filler_has_a_place_for_a_pair_and_none_in_it() -> None:
    arrays = _assemble([_preferences(3, 8)], np.empty((0, 2), np.int64), 2, 8)
    assert arrays.pairs is not None
    assert arrays.pairs.tolist() == [[-1], [-1]]
    assert _assemble([_pairs([[1, 100]], 16)], np.array([[0, 0]]), 2, 16).pairs is None
