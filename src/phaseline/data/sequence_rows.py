"""Rows of whole sequences: pairs, chats and preferences, or the pieces of texts. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from phaseline.data.rows import NO_LOSS, Ids, RowArrays, Unit, spans

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from phaseline.data.packing import Packing
    from phaseline.data.store import SplitData, Tokens

    Pack = Callable[[Ids, int], Packing]

_TOKENS_AT_ONCE = 1 << 22


class Sequences(NamedTuple):
    """Runs of a store's tokens, each of which fits a row.

    Attributes:
        starts: First token of each. `[sequences]`
        num_inputs: Inputs of each; the token after the last of them is its last target.
        num_targets: Of these inputs, how many have a target with loss.
        num_dropped: Samples that are left out because nothing of them would be learnt.
        num_truncated: Samples that are kept without their end.
        per_item: Sequences that share a row: 1; of preferences 2, the chosen and the rejected.
    """

    starts: Ids
    num_inputs: Ids
    num_targets: Ids
    num_dropped: int
    num_truncated: int
    per_item: int


class SequenceRows:
    """Rows of one or more sequences, as a packing lays them; the rest of a row is padding.

    A sequence's last token is only a target and its first only an input, so sequences that share
    a row have exactly the inputs and targets that they have apart.
    """

    def __init__(
        self, data: SplitData, sequences: Sequences, sequence_length: int, pack: Pack
    ) -> None:
        per_item = sequences.per_item
        packing = pack(sequences.num_inputs.reshape(-1, per_item).sum(axis=1), sequence_length)
        self.num_rows = packing.num_rows
        self.num_dropped = sequences.num_dropped
        self.num_truncated = sequences.num_truncated
        self.num_useful = int(sequences.num_inputs.sum())
        self.num_pairs = len(sequences.starts) // 2 if per_item == 2 else 0
        self._tokens = data.tokens
        self._learnt = data.learnt
        self._checks = data.checks
        self._sequences = sequences
        self._members = (packing.members[:, None] * per_item + np.arange(per_item)).ravel()
        self._offsets = packing.offsets * per_item
        self._row_inputs = self._sum_of_rows(sequences.num_inputs)
        self._row_targets = self._sum_of_rows(sequences.num_targets)

    @property
    def num_prompts(self) -> int:
        """Items with a prompt; none of text, all of which is learnt."""
        return 0 if self._learnt is None else len(self._members) // self._sequences.per_item

    def prompt(self, idx: int) -> Tokens:
        """The tokens of an item's prompt, not cut; in the order of the documents."""
        assert self._learnt is not None
        place = idx * self._sequences.per_item
        start = int(self._sequences.starts[place])
        end = start + int(self._sequences.num_inputs[place]) + 1
        self._checks.require(start, end)
        return self._tokens[start : start + int(self._learnt[start:end].argmax())]

    def max_length(self, ids: Ids) -> int:
        """Inputs of the longest of these rows, without padding."""
        return int(self._row_inputs[ids].max())

    def num_units(self, ids: Ids, unit: Unit) -> Ids:
        """Units in each of these rows: targets with loss, or pairs of answers. `[rows]`"""
        if unit == "tokens":
            return np.take(self._row_targets, ids)
        has_pairs = unit == "pairs" and self._sequences.per_item == 2
        assert has_pairs, f"these rows have no {unit}"
        counts: Ids = (self._offsets[ids + 1] - self._offsets[ids]) // self._sequences.per_item
        return counts

    def take(self, ids: Ids, time: int, pad_id: int) -> RowArrays:
        """These rows, padded on the right to `time`; fresh arrays."""
        first, end = self._offsets[ids], self._offsets[ids + 1]
        members = self._members[spans(first, end)]
        lengths = self._sequences.num_inputs[members]
        starts = self._sequences.starts[members]
        self._checks.require(starts, starts + lengths + 1)
        begins = np.cumsum(lengths) - lengths
        # Of every token its place in its sequence, in the store, and in the rows.
        within = np.arange(lengths.sum()) - np.repeat(begins, lengths)
        sources = within + np.repeat(starts, lengths)
        rows = np.repeat(np.arange(len(ids)), end - first)
        columns = begins - np.repeat(begins[np.cumsum(end - first) - (end - first)], end - first)
        places = within + np.repeat(rows * time + columns, lengths)
        inputs = np.full((len(ids), time), pad_id, np.int64)
        targets = np.full((len(ids), time), NO_LOSS, np.int64)
        inputs.ravel()[places] = self._tokens[sources]
        targets.ravel()[places] = self._learnt_tokens(sources + 1)
        if len(members) == len(ids):
            return RowArrays(inputs, targets, None)
        pairs = self._pairs(members, end - first) if self.num_pairs else None
        # Padding counts on from the last sequence of its row.
        positions = np.arange(time) - columns[np.cumsum(end - first) - 1][:, None]
        positions.ravel()[places] = within
        return RowArrays(inputs, targets, positions, pairs)

    def _pairs(self, members: Ids, num_members: Ids) -> Ids:
        """The number of each pair of each row, by its place in the data, whatever the packing."""
        counts = num_members // 2
        pairs = np.full((len(counts), int(counts.max())), -1, np.int64)
        pairs[np.arange(pairs.shape[1]) < counts[:, None]] = members[::2] // 2
        return pairs

    def _learnt_tokens(self, places: Ids) -> Ids:
        tokens = self._tokens[places].astype(np.int64)
        return tokens if self._learnt is None else np.where(self._learnt[places], tokens, NO_LOSS)

    def _sum_of_rows(self, of_sequences: Ids) -> Ids:
        sums = np.concatenate([[0], np.cumsum(of_sequences[self._members])])
        of_rows: Ids = sums[self._offsets[1:]] - sums[self._offsets[:-1]]
        return of_rows


def whole_samples(data: SplitData, sequence_length: int, *, per_item: int) -> Sequences:
    """Every sample as one sequence, cut at its end to what fits a row.

    The two answers of a preference share a row: the longer one gives way to the other, down to
    half of it.
    """
    starts, lengths = data.offsets[:-1], np.diff(data.offsets)
    most = _room(lengths - 1, sequence_length, per_item)
    num_inputs = np.minimum(lengths - 1, most)
    num_targets = _count_learnt(data, starts + 1, starts + 1 + np.maximum(num_inputs, 0))
    is_kept = (num_targets.reshape(-1, per_item) > 0).all(axis=1)
    is_cut = (num_inputs < lengths - 1).reshape(-1, per_item).any(axis=1)
    kept = np.repeat(is_kept, per_item)
    return Sequences(
        starts[kept],
        num_inputs[kept],
        num_targets[kept],
        num_dropped=int((~is_kept).sum()),
        num_truncated=int((is_cut & is_kept).sum()),
        per_item=per_item,
    )


def text_pieces(data: SplitData, sequence_length: int) -> Sequences:
    """Every document in as many pieces as it has rows full of tokens, the last one shorter."""
    num_inputs = np.diff(data.offsets) - 1
    num_pieces = -(-num_inputs // sequence_length)
    documents = np.repeat(np.arange(len(num_inputs)), num_pieces)
    before = spans(np.zeros_like(num_pieces), num_pieces) * sequence_length
    lengths = np.minimum(num_inputs[documents] - before, sequence_length)
    num_dropped = int((num_pieces == 0).sum())
    return Sequences(data.offsets[documents] + before, lengths, lengths, num_dropped, 0, 1)


def _room(num_inputs: Ids, sequence_length: int, per_item: int) -> Ids:
    """The most inputs that each sequence may have."""
    if per_item == 1:
        return np.full_like(num_inputs, sequence_length)
    others = num_inputs.reshape(-1, 2)[:, ::-1].ravel()
    half = sequence_length // 2
    # Where both are longer than half, both are cut to it.
    return np.where(others > half, half, sequence_length - others)


def _count_learnt(data: SplitData, first: Ids, end: Ids) -> Ids:
    """Learnt tokens from each first to before its end; the spans are in order."""
    assert data.learnt is not None
    counts = np.zeros(len(first), np.int64)
    done = 0
    while done < len(first):
        # Some at a time: sums over a whole store would take eight times its size.
        until = int(np.searchsorted(first, first[done] + _TOKENS_AT_ONCE, side="right"))
        base, stop = int(first[done]), int(end[done:until].max())
        data.checks.require_learnt(base, stop)
        sums = _running_sum(data.learnt[base:stop])
        counts[done:until] = sums[end[done:until] - base] - sums[first[done:until] - base]
        done = until
    return counts


def _running_sum(flags: NDArray[np.uint8]) -> NDArray[np.int32]:
    sums = np.zeros(len(flags) + 1, np.int32)
    np.cumsum(flags, out=sums[1:])
    return sums
