"""Text to tokens and back: a byte-level BPE trained on a source, or plain bytes.

Every text can be encoded and comes back unchanged. Imports neither torch nor transformers.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from phaseline.data.cache import Cache, Proceed, Report, always_proceed
from phaseline.data.fingerprints import fingerprint_of
from phaseline.data.sources import Document, Pair, Source, build_source
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from phaseline.config.data_section import TokenizerSection

EOS = "<eos>"
PAD = "<pad>"
TOKENIZER_FILE = "tokenizer.json"

# Part of the cache key of a trained tokenizer; raise it when training changes.
_TRAINING_VERSION = 1


class Tokenizer:
    """Encodes and decodes with one vocabulary."""

    def __init__(self, backend: Backend) -> None:
        """Takes over a `tokenizers` object that has the two special tokens."""
        # A document that spells out "<eos>" must not end itself: it is encoded as text.
        backend.encode_special_tokens = True
        self._backend = backend
        self.vocab_size = backend.get_vocab_size()
        self.eos_id = _require_token(backend, EOS)
        self.pad_id = _require_token(backend, PAD)
        self.fingerprint = fingerprint_of(backend.to_str())

    @classmethod
    def of_bytes(cls) -> Tokenizer:
        """One token per byte, its id the byte's value; then `<eos>` and `<pad>`."""
        vocabulary = {letter: byte for byte, letter in enumerate(_byte_letters())}
        backend = _byte_level(models.BPE(vocab=vocabulary, merges=[]))
        backend.add_special_tokens([AddedToken(EOS, special=True), AddedToken(PAD, special=True)])
        return cls(backend)

    @classmethod
    def train(cls, texts: Iterator[str], vocab_size: int) -> Tokenizer:
        """Trains a byte-level BPE; the same texts give the same tokenizer."""
        backend = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[EOS, PAD],
            initial_alphabet=_byte_letters(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Loads what `save` wrote."""
        return cls(Backend.from_file(str(folder / TOKENIZER_FILE)))

    def save(self, folder: Path) -> None:
        """Writes files that transformers' `AutoTokenizer.from_pretrained` reads as well."""
        folder.mkdir(parents=True, exist_ok=True)
        self._backend.save(str(folder / TOKENIZER_FILE))
        special = {"eos_token": EOS, "pad_token": PAD}
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **special,
        }
        for name, content in (
            ("tokenizer_config.json", settings),
            ("special_tokens_map.json", special),
        ):
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @property
    def token_bytes(self) -> NDArray[np.int32]:
        """Bytes of text that each token stands for, `[vocabulary]`; 0 for special tokens."""
        num_bytes = np.zeros(self.vocab_size, np.int32)
        for token, token_id in self._backend.get_vocab().items():
            if token_id not in (self.eos_id, self.pad_id):
                # A byte-level vocabulary spells every byte as one character.
                num_bytes[token_id] = len(token)
        return num_bytes

    def encode(self, text: str) -> list[int]:
        """Encodes one text, without special tokens."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes many texts, on all cores unless TOKENIZERS_PARALLELISM says otherwise."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the tokens, without special tokens; broken characters become U+FFFD."""
        text: str = self._backend.decode([int(token) for token in ids], skip_special_tokens=True)
        return text


def build_tokenizer(
    section: TokenizerSection,
    cache: Cache,
    report: Report = lambda _: None,
    proceed: Proceed = always_proceed,
) -> Tokenizer:
    """Builds the configured tokenizer, training and caching it if it is not in the cache.

    Args:
        section: The tokenizer's section.
        cache: Where a trained one is kept.
        report: Told what is done.
        proceed: Called before each text; what it raises ends the training.
    """
    if section.train is None:
        return Tokenizer.of_bytes()
    train = section.train
    source = build_source(train.source, train.arguments)
    fingerprint = fingerprint_of(_TRAINING_VERSION, train.vocab_size, source.fingerprint())

    def build(folder: Path) -> None:
        report(f"training a tokenizer of {train.vocab_size} entries on {train.source}")
        Tokenizer.train(_texts(source, proceed), train.vocab_size).save(folder)

    return Tokenizer.load(cache.obtain("tokenizers", fingerprint, build, report, proceed))


def _texts(source: Source, proceed: Proceed) -> Iterator[str]:
    for sample in source.samples():
        proceed()
        if isinstance(sample, Document):
            yield sample.text
        elif isinstance(sample, Pair):
            yield sample.prompt + sample.completion


def _require_token(backend: Backend, token: str) -> int:
    token_id = backend.token_to_id(token)
    if token_id is None:
        raise DataError(
            f"the tokenizer has no token {token!r}; it must have {EOS!r} and {PAD!r}. "
            "Remove it from the cache, so that it is made again."
        )
    return int(token_id)


def _byte_level(model: models.Model) -> Backend:
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _byte_letters() -> list[str]:
    """The letter that byte-level BPE writes for each of the 256 bytes.

    Printable bytes stand for themselves, the others for letters from U+0100 on, in order.

    Source: GPT-2's `bytes_to_unicode`, which the `ByteLevel` classes follow.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
