"""The source `digits`: handwritten digits that scikit-learn brings along. No network."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from phaseline.config.known_sources import SOURCES
from phaseline.data.sources.protocol import Labelled, Shape
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONTENT = "eb6da2ce72169055db3026c6bf2fd393"
_DARKEST = 16.0


class Digits:
    """Yields 1,797 images `[1, 8, 8]`, fp32 from 0 to 1, of the ten digits.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998: its test
    set, of 13 writers.
    """

    shape: Shape = "labelled"
    classes = SOURCES["digits"].classes

    def __init__(self) -> None:
        """Looks for the package; imports nothing yet.

        Raises:
            DataError: It is not installed.
        """
        if find_spec("sklearn") is None:
            raise DataError(
                "data source 'digits' needs scikit-learn, which is not installed. Install "
                "phaseline[digits], or use another source."
            )

    def fingerprint(self) -> str:
        """Names the content, which `samples` holds against what it reads."""
        return f"digits-1-{_CONTENT}"

    def samples(self) -> Iterator[Labelled]:
        """Yields every image.

        Raises:
            DataError: The package brings other images along than those that are known.
        """
        from sklearn.datasets import load_digits

        found = load_digits()
        pixels, labels = found.images.astype(np.uint8), found.target.astype("<i8")
        digest = hashlib.blake2b(pixels.tobytes() + labels.tobytes(), digest_size=16)
        if digest.hexdigest() != _CONTENT:
            raise DataError(
                "scikit-learn's digits are not those that this source knows. Install another "
                "version of it, or write them to files and use the source `files`."
            )
        images = pixels[:, np.newaxis].astype(np.float32) / np.float32(_DARKEST)
        for idx, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            yield Labelled(f"digit {idx:04}", image, label)
