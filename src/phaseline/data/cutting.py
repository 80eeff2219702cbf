"""From one side of a store to the rows of a phase. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phaseline.data import packing
from phaseline.data.labelled_rows import LabelledRows, LabelledTextRows, NumberRows
from phaseline.data.rows import Rows, TextWindows
from phaseline.data.sequence_rows import SequenceRows, text_pieces, whole_samples

if TYPE_CHECKING:
    from phaseline.data.sequence_rows import Pack
    from phaseline.data.sources.protocol import Shape
    from phaseline.data.store import SplitData


def build_rows(
    shape: Shape,
    data: SplitData,
    sequence_length: int,
    *,
    is_packed: bool = True,
    is_ordered: bool = False,
) -> Rows:
    """Builds the rows that fit a store's shape.

    Args:
        shape: Of the store.
        data: One side of it.
        sequence_length: Positions of a row.
        is_packed: Whether documents share rows: texts end to end, others as they fit best.
        is_ordered: Whether what follows each other in the store does so in the rows.
    """
    if shape == "text" and is_packed:
        return TextWindows(data, sequence_length)
    if shape == "text":
        sequences = text_pieces(data, sequence_length)
    else:
        per_item = 2 if shape == "preferences" else 1
        sequences = whole_samples(data, sequence_length, per_item=per_item)
    if not is_packed:
        pack: Pack = packing.one_per_row
    else:
        pack = packing.in_order if is_ordered else packing.best_fit
    return SequenceRows(data, sequences, sequence_length, pack)


def build_labelled_rows(
    data: SplitData, sequence_length: int | None, *, scales_images: bool
) -> LabelledRows:
    """Builds the rows of samples with a label.

    Args:
        data: One side of a store.
        sequence_length: The most tokens of a row; None of images and features.
        scales_images: Whether pixels become 0 to 1.
    """
    if data.numbers is not None:
        return NumberRows(data, scales_images=scales_images)
    assert sequence_length is not None
    return LabelledTextRows(data, sequence_length)
