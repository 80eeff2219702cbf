"""Which documents are held out: decided by each document's id alone."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property


@dataclass(frozen=True)
class SplitRule:
    """What is only ever validated on.

    Independent of the other documents, so that adding some moves none of the old ones, and a
    larger share holds out all that a smaller one does.

    Attributes:
        seed: The session's.
        frac: Share of the documents: 0 is none of them, 1 is all.
        ids: Patterns as of file names; a document whose id matches one is held out.
    """

    seed: int
    frac: float = 0.0
    ids: tuple[str, ...] = ()

    def holds_out(self, document_id: str) -> bool:
        """Whether a document is only ever validated on."""
        if self._pattern is not None and self._pattern.match(document_id):
            return True
        key = f"{self.seed}|{document_id}".encode("utf-8", errors="surrogatepass")
        digest = hashlib.blake2b(key, digest_size=8, person=b"held-out").digest()
        return int.from_bytes(digest, "little") < self.frac * 2**64

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        return re.compile("|".join(map(translate, self.ids))) if self.ids else None
