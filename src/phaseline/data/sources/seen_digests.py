"""A set of digests that costs little more than the digests themselves."""

from __future__ import annotations

import hashlib

import numpy as np

_DIGEST_BYTES = 16
_RECENT = 1 << 16


class SeenDigests:
    """Remembers contents by digests of 16 bytes each.

    A set of Python objects would take 100 bytes for each. Here the newest wait in such a set,
    and are merged into a sorted array when there are many.
    """

    def __init__(self, max_recent: int = _RECENT) -> None:
        self._max_recent = max_recent
        self._recent: set[bytes] = set()
        self._sorted = np.zeros(0, f"S{_DIGEST_BYTES}")

    def add(self, content: bytes) -> bool:
        """Remembers a content; returns whether it was new."""
        # numpy drops zeros at the end of bytes, so they are dropped everywhere.
        digest = hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest().rstrip(b"\0")
        if digest in self._recent or self._is_sorted_in(digest):
            return False
        self._recent.add(digest)
        if len(self._recent) >= self._max_recent:
            recent = np.array(sorted(self._recent), self._sorted.dtype)
            places = np.searchsorted(self._sorted, recent)
            self._sorted = np.insert(self._sorted, places, recent)
            self._recent.clear()
        return True

    def _is_sorted_in(self, digest: bytes) -> bool:
        place = int(np.searchsorted(self._sorted, np.bytes_(digest)))
        return place < len(self._sorted) and bool(self._sorted[place] == np.bytes_(digest))
