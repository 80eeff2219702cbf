"""Images as numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phaseline.config.places import place_of
from phaseline.data.sources.problems import RowFault
from phaseline.errors import UnreachableFileError

if TYPE_CHECKING:
    from PIL.Image import Image

_FIX = "Write it anew as PNG or JPEG, or leave it out."
_GREY_MODES = ("1", "L")


class ImageReader:
    """Decodes images of one size to `[channels, height, width]`, uint8."""

    def __init__(self, resize: tuple[int, int] | None, channels: int | None) -> None:
        """Sets what every image becomes.

        Args:
            resize: Height and width to scale to; None: all must be of one size.
            channels: 1: grey, 3: red, green and blue; None: as the first one is.
        """
        self._resize = resize
        self._mode = {None: None, 1: "L", 3: "RGB"}[channels]
        self._shape: tuple[int, ...] | None = None

    def read(self, value: object, folder: Path) -> NDArray[np.uint8]:
        """Decodes one image.

        Args:
            value: Its bytes, its path, or both as Hugging Face stores them.
            folder: What a path is relative to.

        Raises:
            RowFault: It is no image, or not as the others are.
        """
        pixels = self._decode(_content(value, folder))
        self._shape = self._shape or pixels.shape
        if pixels.shape != self._shape:
            raise RowFault(
                "an image of another size",
                f"the image is {pixels.shape} in channels, height and width, "
                f"while the first one is {self._shape}",
                "Set `resize: [HEIGHT, WIDTH]` and `channels` in the source's arguments.",
            )
        return pixels

    def _decode(self, content: bytes) -> NDArray[np.uint8]:
        from PIL import Image, UnidentifiedImageError

        broken = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
        try:
            with Image.open(io.BytesIO(content)) as image:
                return self._pixels(image)
        except UnidentifiedImageError:
            raise RowFault("no image", "the image has no known format", _FIX) from None
        except broken as error:
            found = f"the image cannot be decoded: {error}"
            raise RowFault("a damaged image", found, _FIX) from None

    def _pixels(self, image: Image) -> NDArray[np.uint8]:
        self._mode = self._mode or ("L" if image.mode in _GREY_MODES else "RGB")
        converted = image.convert(self._mode)
        if self._resize is not None:
            height, width = self._resize
            converted = converted.resize((width, height))
        pixels = np.asarray(converted, np.uint8)
        return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy()


def path_of_image(value: object) -> str | None:
    """The path if that is all that there is of an image."""
    if isinstance(value, Mapping):
        return value.get("path") if value.get("bytes") is None else None
    return value if isinstance(value, str) else None


def _content(value: object, folder: Path) -> bytes:
    path = path_of_image(value)
    if path is not None:
        try:
            return place_of(str(folder / path)).read_bytes()
        except OSError as error:
            UnreachableFileError.require_lasting(error, folder / path)
            fix = "Paths of images are relative to the folder of the file that names them."
            raise RowFault("a missing image", f"the image cannot be read: {error}", fix) from None
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(content, bytes):
        raise RowFault(
            "no image",
            f"the image is {type(content).__name__}",
            "It must be bytes, a path, or an object with `bytes` or `path`.",
        )
    return content
