"""From the stores of a phase to its rows, and whether they can be trained on together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from phaseline.data.batch_arrays import AnyRows
from phaseline.data.cutting import build_labelled_rows, build_rows
from phaseline.data.fingerprints import fingerprint_of
from phaseline.data.store import SplitData, Store
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phaseline.config.sections import PhaseSection
    from phaseline.data.store_request import StoreRequest


@dataclass(frozen=True)
class PhaseRows:
    """Rows of one source in one phase.

    Attributes:
        fingerprint: Names what the store was made of.
        contents: A digest of what was made of it; of two where another source is held out.
        store: Where the rows are cut from.
        train: Rows of the phase's sequence length.
        held_out: Rows of its evaluation's sequence length. Where a source of its own is held
            out, these are that source's, and stand with the first source.
    """

    fingerprint: str
    contents: str
    store: Store
    train: AnyRows
    held_out: AnyRows


def cut_rows(
    phase: PhaseSection,
    stores: Sequence[Store],
    training: Sequence[StoreRequest],
    held_out: StoreRequest | None,
) -> list[PhaseRows]:
    """Cuts a phase's rows from its stores.

    Args:
        phase: The phase.
        stores: One for each source that is trained on, then the one that is only held out.
        training: What the former were made for.
        held_out: What the latter was, if there is one.

    Returns:
        One for each source that is trained on.

    Raises:
        DataError: The stores do not go together, or leave nothing to train or validate on.
    """
    every = [*training, *([] if held_out is None else [held_out])]
    _require_one_form(phase, every, stores)
    _require_one_list_of_classes(phase, every, stores)
    trained = list(stores[: len(training)])
    fingerprints = [request.fingerprint for request in training]
    contents = [store.contents for store in trained]
    if held_out is not None:
        apart = stores[-1]
        num_classes = max(trained[0].num_classes, apart.num_classes)
        facts = {**trained[0].facts, "classes": num_classes}
        trained[0] = replace(trained[0], held_out=apart.held_out, facts=facts)
        fingerprints[0] = fingerprint_of(fingerprints[0], held_out.fingerprint)
        contents[0] = fingerprint_of(contents[0], apart.contents)
    rows = [
        PhaseRows(
            fingerprint,
            content,
            store,
            _build_rows(phase, store, store.train),
            _build_rows(phase, store, store.held_out, is_held_out=True),
        )
        for fingerprint, content, store in zip(fingerprints, contents, trained, strict=True)
    ]
    _require_rows(phase, rows, training, ", ".join(request.name for request in every))
    return rows


def require_length(phase: PhaseSection, name: str, *, is_of_numbers: bool) -> None:
    """Raises unless a phase says how long its rows are where these hold tokens, and only there.

    Args:
        phase: The phase.
        name: Of the source.
        is_of_numbers: Whether it gives images or features.

    Raises:
        DataError: The length is missing, or has no effect.
    """
    length = phase.data.sequence_length
    given = length or phase.evaluate.sequence_length
    if is_of_numbers and given is not None:
        raise DataError(
            f"phase {phase.name}: sequence_length is {given}, which has no effect: {name} gives "
            "images or features, which hold no sequence of tokens. Remove it."
        )
    if not is_of_numbers and length is None:
        raise DataError(
            f"phase {phase.name}: data.sequence_length is missing: {name} gives text. Add for "
            "example `sequence_length: 256`."
        )


def _build_rows(
    phase: PhaseSection, store: Store, side: SplitData, *, is_held_out: bool = False
) -> AnyRows:
    data = phase.data
    length = (is_held_out and phase.evaluate.sequence_length) or data.sequence_length
    if store.shape == "labelled":
        return build_labelled_rows(side, length, scales_images=data.scale_images)
    assert length is not None
    is_ordered = data.order == "sequential" and not is_held_out
    return build_rows(store.shape, side, length, is_packed=data.packing, is_ordered=is_ordered)


def _require_one_form(
    phase: PhaseSection, requests: Sequence[StoreRequest], stores: Sequence[Store]
) -> None:
    """Raises if sources differ in what their samples are, or in what a setting means to them."""
    first = stores[0].form
    for request, store in zip(requests, stores, strict=True):
        require_length(phase, request.name, is_of_numbers=store.form is not None)
        if store.form != first:
            found, wanted = ("texts" if one is None else str(one) for one in (store.form, first))
            raise DataError(
                f"phase {phase.name}: {requests[0].name} gives {wanted} and {request.name} gives "
                f"{found}. Bring them to one form, or put them into phases of their own."
            )
    has_no_pixels = first is not None and np.dtype(first.dtype) != np.uint8
    if not phase.data.scale_images and has_no_pixels:
        raise DataError(
            f"phase {phase.name}: data.scale_images is false, which has no effect: "
            f"{requests[0].name} gives no pixels, which are whole numbers of 8 bits. Remove it."
        )


def _require_one_list_of_classes(
    phase: PhaseSection, requests: Sequence[StoreRequest], stores: Sequence[Store]
) -> None:
    """Raises if a label stands for one class in one source, and for another in the next."""
    named = [(one.name, store) for one, store in zip(requests, stores, strict=True)]
    first, listed = next(((n, s.class_names) for n, s in named if s.class_names), ("", ()))
    for name, store in named:
        is_beyond = listed and store.num_classes > len(listed)
        if is_beyond or (store.class_names and store.class_names != listed):
            raise DataError(
                f"phase {phase.name}: {first} lists the classes {', '.join(listed)}, and {name} "
                f"has {', '.join(store.class_names) or f'labels up to {store.num_classes - 1}'}. "
                "Give all sources of a phase the same `classes`, in the same order."
            )


def _require_rows(
    phase: PhaseSection, rows: Sequence[PhaseRows], training: Sequence[StoreRequest], names: str
) -> None:
    train_length = phase.data.sequence_length
    held_out_length = phase.evaluate.sequence_length or train_length
    for request, one in zip(training, rows, strict=True):
        if one.train.num_rows == 0:
            raise _nothing_left(phase, request.name, "train on", [one.store.train], train_length)
    if phase.data.held_out is None:
        for request, one in zip(training, rows, strict=True):
            if one.held_out.num_rows == 0:
                sides = [one.store.held_out]
                raise _nothing_left(phase, request.name, "validate on", sides, held_out_length)
    elif not any(one.held_out.num_rows for one in rows):
        # Patterns may mean documents of one source alone.
        sides = [one.store.held_out for one in rows]
        raise _nothing_left(phase, names, "validate on", sides, held_out_length)


def _nothing_left(
    phase: PhaseSection, name: str, purpose: str, sides: Sequence[SplitData], length: int | None
) -> DataError:
    held_out = phase.data.held_out
    frac = f"another `held_out_frac` (it is {phase.data.held_out_frac})"
    other = frac if held_out is None else "another `held_out`"
    num_documents = sum(side.num_documents for side in sides)
    lead = f"phase {phase.name}: data source {name!r} leaves nothing to {purpose}: "
    if length is None:
        return DataError(
            f"{lead}no sample is on that side of the split. Use more samples, or {other}."
        )
    return DataError(
        f"{lead}{num_documents} documents with {sum(side.num_tokens for side in sides)} tokens on "
        f"that side of the split give no sequence of {length} tokens. Use more documents, "
        f"{other}, or a shorter sequence length."
    )
