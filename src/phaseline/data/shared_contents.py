"""Counting what is on both sides of a split although no document is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 20

Contents = Sequence[NDArray[np.uint64] | None]


def num_shared(train: Contents, held_out: Contents) -> int:
    """Held-out samples that are trained on too, told by the digests of their tokens."""
    apart = np.concatenate([part for part in held_out if part is not None] or [np.zeros(0, "u8")])
    distinct, counts = np.unique(apart, return_counts=True)
    is_shared = np.zeros(len(distinct), bool)
    for part in train:
        if part is None or len(distinct) == 0:
            continue
        # Block by block, because the part is mapped and may be larger than memory.
        for start in range(0, len(part), _BLOCK):
            is_shared |= np.isin(distinct, part[start : start + _BLOCK])
    return int(counts[is_shared].sum())
