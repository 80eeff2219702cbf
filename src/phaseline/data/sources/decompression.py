"""Files as bytes, whether they are compressed or not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import IO, cast

from phaseline.config.places import located

COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")

READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""What reading a damaged or missing file raises, compressed or not."""

_MAGIC_BYTES = 6


def open_bytes(path: str) -> IO[bytes]:
    """Opens a file, decompressing it if it begins as a compressed one does, whatever its name.

    Reading raises one of `READ_ERRORS` where the file is damaged or cut off.
    """
    path = located(path)
    with Path(path).open("rb") as file:
        magic = file.read(_MAGIC_BYTES)
    if magic.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if magic.startswith(b"BZh"):
        return bz2.open(path, "rb")
    if magic.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(path, "rb")
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        # pyarrow's reader and not zstandard's, which takes a file that is cut off for whole.
        import pyarrow as pa

        return io.BufferedReader(pa.input_stream(path, compression="zstd"))
    return Path(path).open("rb")


def without_compression(path: str) -> str:
    """A path without the suffix of its compression."""
    suffix = Path(path).suffix.lower()
    return path[: -len(suffix)] if suffix in COMPRESSED_SUFFIXES else path
