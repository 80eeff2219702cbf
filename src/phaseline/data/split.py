"""Which documents are held out: decided by each document's id alone."""

from __future__ import annotations

import hashlib


def is_held_out(seed: int, document_id: str, held_out_frac: float) -> bool:
    """Whether a document is only ever validated on.

    Independent of the other documents, so that adding some moves none of the old ones, and a
    larger share holds out all that a smaller one does.
    """
    key = f"{seed}|{document_id}".encode("utf-8", errors="surrogatepass")
    digest = hashlib.blake2b(key, digest_size=8, person=b"held-out").digest()
    return int.from_bytes(digest, "little") < held_out_frac * 2**64
