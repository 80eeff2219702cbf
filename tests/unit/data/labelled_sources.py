"""Sources of samples with a label, for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from phaseline.data.sources import Labelled


class Made:
    """Yields the samples that it is given."""

    shape: Literal["labelled"] = "labelled"

    def __init__(self, samples: Sequence[Labelled], classes: Sequence[str] | None = None) -> None:
        self._samples = list(samples)
        self.classes = classes

    def fingerprint(self) -> str:
        return repr([(one.id, one.label, repr(one.inputs)) for one in self._samples])

    def samples(self) -> Iterator[Labelled]:
        yield from self._samples


class Images:
    """Noise of whole numbers, `[2, 3, 4]`; the label is the number of the image modulo 5."""

    shape: Literal["labelled"] = "labelled"
    item_shape: tuple[int, ...] = (2, 3, 4)
    dtype: Any = np.uint8

    def __init__(self, name: str = "images", count: int = 60) -> None:
        self._name, self._count = name, count

    def fingerprint(self) -> str:
        return f"{type(self).__name__}-{self._name}-{self._count}"

    def inputs(self, idx: int) -> NDArray[Any]:
        generator = np.random.default_rng((len(self._name), idx))
        return generator.integers(0, 256, self.item_shape).astype(self.dtype)

    def samples(self) -> Iterator[Labelled]:
        for idx in range(self._count):
            yield Labelled(f"{self._name} {idx}", self.inputs(idx), idx % 5)


class Features(Images):
    """The same as rows of features, fp32."""

    item_shape = (7,)
    dtype = np.float32


class Reviews:
    """Texts of many lengths; the label is the number of the text modulo 3."""

    shape: Literal["labelled"] = "labelled"

    def __init__(self, name: str = "reviews", count: int = 60) -> None:
        self._name, self._count = name, count

    def fingerprint(self) -> str:
        return f"reviews-{self._name}-{self._count}"

    def samples(self) -> Iterator[Labelled]:
        for idx in range(self._count):
            yield Labelled(f"{self._name} {idx}", f"{idx} " + "so " * (1 + idx * 5 % 11), idx % 3)
