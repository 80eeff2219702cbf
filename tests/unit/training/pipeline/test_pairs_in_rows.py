from __future__ import annotations

import pytest
import torch

from phaseline.objectives.preferences import answer_slots
from phaseline.training.pipeline.document_trial import pairs_in_rows, two_documents


def batch(rows: int, length: int) -> torch.Tensor:
    return torch.arange(rows * (length + 1)).view(rows, length + 1)


@pytest.mark.parametrize("length", [4, 5, 6, 7, 16, 17])
def test_trial_rows_hold_several_pairs_and_the_last_one_fewer(length: int) -> None:
    ids = batch(3, length)
    half = length // 2
    found = pairs_in_rows(two_documents(ids[:, : half + 1], ids[:, half:]))
    assert found.pair_ids is not None
    assert found.position_ids is not None
    num_pairs = found.pair_ids.shape[1]
    documents = (found.position_ids == 0).sum(dim=1).tolist()
    assert documents == [2 * num_pairs] * 2 + [2]
    assert (found.pair_ids >= 0).sum(dim=1).tolist() == [num_pairs, num_pairs, 1]
    assert int(answer_slots(found).max()) < 2 * num_pairs * 3
    assert num_pairs == 2


def test_trial_of_one_row_has_several_pairs() -> None:
    ids = batch(1, 8)
    found = pairs_in_rows(two_documents(ids[:, :5], ids[:, 4:]))
    assert found.pair_ids is not None
    assert found.pair_ids.tolist() == [[0, 0]]
