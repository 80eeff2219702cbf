"""Data order as pure functions of position: nothing to restore, any position at O(1).

Source: measured and compared in quality with stored permutations before it was chosen. A
hashed argsort is unbiased at any size but needs memory and time in proportion to it; a
Feistel network needs neither, and its bias is no longer measurable beyond some 100 items.
Both are plain integer arithmetic: no library's random generator can change the order.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import OrderedDict
from fractions import Fraction
from math import gcd, lcm
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Ids = NDArray[np.int64]
Words = NDArray[np.uint64]
Key = int | str

LARGEST_SORTED = 65_536
LONGEST_PERIOD = 65_536
_EPOCHS_KEPT = 2


def permutation(num_items: int, *key: Key) -> Callable[[Ids], Ids]:
    """A bijection of [0, num_items) that the key decides, from positions to ids."""
    if num_items <= LARGEST_SORTED:
        table = _sorted_permutation(num_items, *key)
        return lambda positions: table[positions]
    return _Feistel(num_items, *key)


class Order(Protocol):
    """Endless order over one data set, epoch after epoch."""

    def ids(self, positions: Ids) -> Ids:
        """Ids at the positions, which count on through the epochs."""
        ...


class SequentialOrder:
    """Every epoch from the first id to the last, for data that lie in the order to train in."""

    def __init__(self, num_items: int) -> None:
        self._num_items = num_items

    def ids(self, positions: Ids) -> Ids:
        """Ids at the positions, which count on through the epochs."""
        return positions % self._num_items


class EpochOrder:
    """Endless order over one data set: every id exactly once per epoch, each epoch anew."""

    def __init__(self, num_items: int, *key: Key) -> None:
        self._num_items = num_items
        self._key = key
        self._epochs: OrderedDict[int, Callable[[Ids], Ids]] = OrderedDict()

    def ids(self, positions: Ids) -> Ids:
        """Ids at the positions, which count on through the epochs."""
        epochs, indices = np.divmod(positions, self._num_items)
        ids = np.empty_like(indices)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            ids[here] = self._permutation(epoch)(indices[here])
        return ids

    def _permutation(self, epoch: int) -> Callable[[Ids], Ids]:
        if epoch not in self._epochs:
            self._epochs[epoch] = permutation(self._num_items, *self._key, epoch)
            if len(self._epochs) > _EPOCHS_KEPT:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]


class Mixture:
    """Endless mixture of sources: at every prefix each is within one sample of its share.

    One period is laid out by earliest deadline first: the j-th sample of a source of share w
    falls into the slots [floor((j-1)/w), ceil(j/w)). Positions beyond look into that table.

    Source: Baruah et al., "Proportionate progress" (1996): such a layout always exists, and
    earliest deadline first finds it for unit jobs. Smooth weighted round robin does not
    keep within one sample: 1.37 was seen with eleven sources of weights 1, 5 and 50.

    Attributes:
        shares: Samples of each source in one period. The weights' exact ratio if the period is
            then at most `LONGEST_PERIOD`, else rounded to that many parts, none below 1.
        period: Their sum.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.shares = _whole_shares(weights)
        self.period = sum(self.shares)
        self._source = _lay_out(self.shares)
        self._shares = np.asarray(self.shares, np.int64)
        self._slots = [np.flatnonzero(self._source == idx) for idx in range(len(self.shares))]
        self._rank = np.empty(self.period, np.int64)
        for slots in self._slots:
            self._rank[slots] = np.arange(len(slots))

    def counts_before(self, position: int) -> list[int]:
        """Samples of each source at the positions before this one."""
        if len(self._slots) == 1:
            return [position]
        periods, slot = divmod(position, self.period)
        return [periods * len(slots) + int(slots.searchsorted(slot)) for slots in self._slots]

    def locate(self, positions: Ids) -> tuple[Ids, Ids]:
        """Source index at each position, and the position within that source."""
        periods, slots = np.divmod(positions, self.period)
        sources = self._source[slots]
        return sources, periods * self._shares[sources] + self._rank[slots]


class _Feistel:
    """Bijection of [0, num_items) by six Feistel rounds and cycle walking."""

    def __init__(self, num_items: int, *key: Key) -> None:
        self._num_items = np.uint64(num_items)
        half_bits = max(1, ((num_items - 1).bit_length() + 1) // 2)
        self._half_bits = np.uint64(half_bits)
        self._mask = np.uint64((1 << half_bits) - 1)
        self._round_keys = _hashed_words(6, num_items, *key)

    def __call__(self, positions: Ids) -> Ids:
        ids = self._encipher(positions.astype(np.uint64))
        # The network permutes up to four times the range: what falls outside walks on its
        # cycle until it is inside, which keeps the whole a bijection.
        outside = ids >= self._num_items
        while outside.any():
            ids[outside] = self._encipher(ids[outside])
            outside = ids >= self._num_items
        return ids.astype(np.int64)

    def _encipher(self, values: Words) -> Words:
        left, right = values >> self._half_bits, values & self._mask
        for round_key in self._round_keys:
            left, right = right, (left ^ _scramble(right + round_key)) & self._mask
        joined: Words = (left << self._half_bits) | right
        return joined


def _sorted_permutation(num_items: int, *key: Key) -> Ids:
    first, second = _hashed_words(2, num_items, *key)
    items = np.arange(num_items, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.argsort(_scramble(_scramble(items + first) ^ second), kind="stable").astype(np.int64)


def _scramble(words: Words) -> Words:
    """splitmix64's finalizer; wraps around."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scrambled: Words = words ^ (words >> np.uint64(31))
    return scrambled


def _hashed_words(count: int, *key: Key) -> Words:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8 * count).digest()
    return np.frombuffer(digest, "<u8").astype(np.uint64)


def _whole_shares(weights: Sequence[float]) -> tuple[int, ...]:
    # Through str: 0.1 means one tenth, not the binary fraction next to it.
    exact = [Fraction(str(weight)) for weight in weights]
    scale = lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    divisor = gcd(*whole)
    total = sum(whole) // divisor
    if total <= LONGEST_PERIOD:
        return tuple(part // divisor for part in whole)
    return tuple(max(1, round(Fraction(part * LONGEST_PERIOD, sum(whole)))) for part in whole)


def _lay_out(shares: Sequence[int]) -> Ids:
    period = sum(shares)
    released: list[tuple[int, int, int]] = []
    waiting = [(0, source_idx, 1) for source_idx in range(len(shares))]
    heapq.heapify(waiting)
    slots = np.empty(period, np.int64)
    for slot in range(period):
        while waiting and waiting[0][0] <= slot:
            _, source_idx, nth = heapq.heappop(waiting)
            deadline = -(-nth * period // shares[source_idx])
            heapq.heappush(released, (deadline, source_idx, nth))
        deadline, source_idx, nth = heapq.heappop(released)
        assert slot < deadline, "earliest deadline first missed a deadline"
        slots[slot] = source_idx
        if nth < shares[source_idx]:
            heapq.heappush(waiting, (nth * period // shares[source_idx], source_idx, nth + 1))
    return slots
