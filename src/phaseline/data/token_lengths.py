"""How many bytes of text each token of a vocabulary stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer as Backend

# How SentencePiece spells a single byte, and a space.
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_SPACE = "\u2581"


def token_lengths(backend: Backend, vocab_size: int) -> NDArray[np.int32]:
    """Bytes of text that each token stands for, `[vocabulary]`; 0 for special tokens.

    Exact for byte-level vocabularies, where the bytes of a text's tokens are the text's. Of
    SentencePiece's, what the tokenizer puts before a text (a space) counts as one byte.
    """
    lengths = np.zeros(vocab_size, np.int32)
    added = backend.get_added_tokens_decoder()
    measure = _measure(json.loads(backend.to_str()))
    for token, token_id in backend.get_vocab().items():
        if token_id in added:
            lengths[token_id] = 0 if added[token_id].special else len(token.encode())
        else:
            lengths[token_id] = measure(token)
    return lengths


def _measure(content: dict[str, Any]) -> Callable[[str], int]:
    """How tokens of the model's own vocabulary are spelt."""
    if "ByteLevel" in _kinds(content.get("decoder")):
        return len  # one letter per byte
    prefix = content["model"].get("continuing_subword_prefix") or ""

    def measure(token: str) -> int:
        if _BYTE_TOKEN.fullmatch(token):
            return 1
        return len(token.removeprefix(prefix).replace(_SPACE, " ").encode())

    return measure


def _kinds(decoder: dict[str, Any] | None) -> set[str]:
    """The kinds of a decoder and of those that it is made of."""
    if decoder is None:
        return set()
    return {decoder["type"]}.union(*(_kinds(part) for part in decoder.get("decoders", ())))
