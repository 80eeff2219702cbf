"""What a labelled sample must be, whoever made it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from phaseline.data.sources.protocol import Labelled
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from phaseline.data.sources.protocol import Sample

_MOST_CLASSES = 1 << 31


@dataclass(frozen=True)
class Form:
    """What images or rows of features are, all of a source alike.

    Attributes:
        dtype: Of their numbers, as numpy writes it.
        shape: Of one of them.
    """

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))} {np.dtype(self.dtype).name}"


def checked_label(sample: Labelled) -> int:
    """The class of a sample.

    Raises:
        DataError: It is no whole number from 0.
    """
    label: object = sample.label
    is_number = isinstance(label, (int, np.integer)) and not isinstance(label, bool)
    if not is_number or not 0 <= sample.label < _MOST_CLASSES:
        raise DataError(
            f"Sample {sample.id!r} has the label {label!r:.60}; it must be a whole number of at "
            "least 0, the place of its class. Correct the source."
        )
    return int(sample.label)


def checked_numbers(sample: Labelled) -> NDArray[Any]:
    """An image or a row of features as it is stored: in its own type, little endian.

    Raises:
        DataError: These are no numbers that a model could be given.
    """
    numbers = sample.inputs
    if not isinstance(numbers, np.ndarray) or numbers.dtype.kind not in "buif":
        kind = numbers.dtype if isinstance(numbers, np.ndarray) else type(numbers).__name__
        raise DataError(
            f"Sample {sample.id!r} has inputs of type {kind}; they must be a text, or an array of "
            "whole or floating-point numbers."
        )
    if numbers.ndim == 0 or numbers.size == 0:
        raise DataError(
            f"Sample {sample.id!r} has inputs of shape {numbers.shape}, which hold nothing. Give "
            "images as [channels, height, width] and features as [features]."
        )
    # Models get fp32: what is no number there is none for them.
    with np.errstate(over="ignore"):
        is_finite = bool(np.isfinite(numbers.astype(np.float32)).all())
    if not is_finite:
        raise DataError(
            f"Sample {sample.id!r} has inputs that are no finite numbers in 32 bits. Fill in or "
            "leave out what is missing."
        )
    return np.ascontiguousarray(numbers.astype(numbers.dtype.newbyteorder("<"), copy=False))


def common_form(samples: Sequence[Sample], source: str) -> Form | None:
    """The form of the images or features among samples of one source; None of texts.

    Raises:
        DataError: They are not all alike.
    """
    known: Form | None = None
    if not samples or not isinstance(samples[0], Labelled):
        return None
    for idx, sample in enumerate(samples):
        form = _form_of(sample)
        require_same_form(form, known if idx else form, sample.id, source)
        known = form
    return known


def require_same_form(form: Form | None, known: Form | None, sample_id: str, source: str) -> None:
    """Raises unless a sample is of the form that those before it have.

    Raises:
        DataError: It is another one.
    """
    if form != known:
        found, wanted = ("a text" if one is None else str(one) for one in (form, known))
        raise DataError(
            f"sample {sample_id!r} of {source} is {found}, and those before it {wanted}: all "
            "inputs of a source must be texts, or numbers of one type and shape. Bring them to "
            "one form, or make two sources of them."
        )


def _form_of(sample: Sample) -> Form | None:
    if not isinstance(sample, Labelled) or isinstance(sample.inputs, str):
        return None
    numbers = sample.inputs
    return Form(numbers.dtype.newbyteorder("<").str, tuple(numbers.shape))
