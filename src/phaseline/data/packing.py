"""Which sequences share a row: packings of lengths into rows of one capacity. No torch.

Every packing here is a pure function of the lengths, so that ranks and restarts agree on it
without a word.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Packing:
    """Items laid into rows.

    Attributes:
        members: Items of all rows, row after row. `[items]`
        offsets: Where each row begins in `members`, and the end of the last. `[rows + 1]`
    """

    members: Ids
    offsets: Ids

    @property
    def num_rows(self) -> int:
        """Rows that hold something."""
        return len(self.offsets) - 1


@dataclass(frozen=True)
class _Fill:
    """Rows that hold items of the same lengths: `count` of one length, and what was before."""

    length: int
    count: int
    before: _Fill | None


def one_per_row(lengths: Ids, capacity: int) -> Packing:  # noqa: ARG001 - as the others
    """Every item in a row of its own, in order."""
    return Packing(np.arange(len(lengths)), np.arange(len(lengths) + 1))


def in_order(lengths: Ids, capacity: int) -> Packing:
    """Fills row after row with the items in their order: the next row begins where one is full.

    Args:
        lengths: Of each item, 1 to `capacity`.
        capacity: What a row holds.
    """
    ends = np.cumsum(lengths)
    offsets, filled = [0], 0
    while offsets[-1] < len(lengths):
        offsets.append(int(np.searchsorted(ends, filled + capacity, side="right")))
        filled = int(ends[offsets[-1] - 1])
    return Packing(np.arange(len(lengths)), np.asarray(offsets, np.int64))


def best_fit(lengths: Ids, capacity: int) -> Packing:
    """Lays the longest items first, each into the fullest row that has room for it.

    Items of one length are interchangeable, so rows are counted, not visited: the time grows
    with the number of different lengths, and only writing down the result with the items.

    Source: best-fit decreasing, at most 11/9 of the fewest rows possible (Johnson, 1974);
    over a histogram of lengths as in Krell et al., "Efficient sequence packing without
    cross-contamination" (2021).

    Args:
        lengths: Of each item, 1 to `capacity`.
        capacity: What a row holds.
    """
    by_length = np.argsort(lengths, kind="stable")
    counts = np.bincount(lengths, minlength=capacity + 1)
    # Where the next unused item of each length stands in `by_length`.
    unused = np.concatenate([[0], np.cumsum(counts)[:-1]])
    members, sizes = [], []
    for num_rows, fill in _best_fit_rows(counts, capacity):
        columns = []
        for length, count in _contents(fill):
            taken = by_length[unused[length] : unused[length] + num_rows * count]
            unused[length] += num_rows * count
            columns.append(taken.reshape(num_rows, count))
        rows = np.concatenate(columns, axis=1)
        members.append(rows.ravel())
        sizes.append(np.full(num_rows, rows.shape[1]))
    return Packing(_joined(members), np.concatenate([[0], np.cumsum(_joined(sizes))]))


class _OpenRows:
    """Rows that are not full yet, counted by the room that is left in them."""

    def __init__(self) -> None:
        self._rows: defaultdict[int, list[tuple[int, _Fill]]] = defaultdict(list)
        self._rooms: list[int] = []

    def put(self, room: int, num_rows: int, fill: _Fill) -> None:
        if not self._rows[room]:
            insort(self._rooms, room)
        self._rows[room].append((num_rows, fill))

    def take_fullest(self, length: int) -> tuple[int, int, _Fill] | None:
        """Room, number and contents of the fullest rows that have room for the length."""
        place = bisect_left(self._rooms, length)
        if place == len(self._rooms):
            return None
        room = self._rooms[place]
        num_rows, fill = self._rows[room].pop()
        if not self._rows[room]:
            self._rooms.pop(place)
        return room, num_rows, fill

    def __iter__(self) -> Iterator[tuple[int, _Fill]]:
        for room in self._rooms:
            yield from self._rows[room]


def _best_fit_rows(counts: Ids, capacity: int) -> _OpenRows:
    """How many rows hold what, for so many items of each length."""
    rows = _OpenRows()
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            fullest = rows.take_fullest(length)
            room, num_rows, fill = fullest or (capacity, left, None)
            # A row that got one is now the fullest with room for the next, until it has none.
            each = room // length
            num_full = min(num_rows, left // each)
            rest = left - num_full * each if num_full < num_rows else 0
            if num_full:
                rows.put(room - each * length, num_full, _Fill(length, each, fill))
            if rest:
                rows.put(room - rest * length, 1, _Fill(length, rest, fill))
            num_untouched = num_rows - num_full - int(rest > 0)
            if fill is not None and num_untouched:
                rows.put(room, num_untouched, fill)
            left -= num_full * each + rest
    return rows


def _contents(fill: _Fill) -> list[tuple[int, int]]:
    """Lengths in a row and how many of each, the longest first."""
    contents = []
    here: _Fill | None = fill
    while here is not None:
        contents.append((here.length, here.count))
        here = here.before
    return contents[::-1]


def _joined(parts: list[Ids]) -> Ids:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
