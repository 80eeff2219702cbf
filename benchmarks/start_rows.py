"""Rows of random bytes for the scripts whose starts are compared; imports torch alone."""

from __future__ import annotations

import torch
from one_parameter import VOCAB_SIZE_OF_BYTES
from torch.utils.data import Dataset

LR = 1e-3
MICRO_SIZE = 8
SEQUENCE_LENGTH = 64


def random_batch(num_rows: int) -> dict[str, torch.Tensor]:
    """Token ids [num_rows, SEQUENCE_LENGTH] and the ids that follow them."""
    tokens = torch.randint(VOCAB_SIZE_OF_BYTES, (num_rows, SEQUENCE_LENGTH + 1))
    return {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:]}


class RandomRows(Dataset[dict[str, torch.Tensor]]):
    """So many rows."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, _idx: int) -> dict[str, torch.Tensor]:
        return {key: value[0] for key, value in random_batch(1).items()}
