"""A run of samples, encoded: what a worker hands over and a shard keeps, as one row of bytes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from phaseline.data.encoding import Dropped, Encoded, EncodedSample, SampleEncoder
from phaseline.data.labels import Form, common_form
from phaseline.data.sources.protocol import (
    Chat,
    Document,
    Labelled,
    Pair,
    Preference,
    Sample,
    TokenDocument,
)
from phaseline.errors import DataError, PhaselineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from phaseline.config.data_section import Learn
    from phaseline.data.split import SplitRule
    from phaseline.data.tokenizer import Tokenizer

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")

_CHUNK_CHARACTERS = 1 << 18
_CHUNK_SAMPLES = 1024
_HEADER_BYTES = 4
_BLOBS = ("tokens", "learnt", "lengths", "contents", "labels", "numbers")


@dataclass
class SplitChunk:
    """One side of a chunk.

    Attributes:
        tokens: Of all sequences, in the store's type.
        learnt: A byte per token.
        lengths: Tokens of each sequence, int64.
        contents: A digest of each sample's tokens or numbers, uint64.
        labels: The class of each sample, int64; nothing where they have none.
        numbers: Of all images or features, in their own type.
    """

    tokens: bytes = b""
    learnt: bytes = b""
    lengths: bytes = b""
    contents: bytes = b""
    labels: bytes = b""
    numbers: bytes = b""


@dataclass
class EncodedChunk:
    """Samples that follow each other in a source, encoded.

    Attributes:
        splits: The samples that are kept, by side.
        ids: A digest of each sample's id, uint64; of those that are left out as well.
        dropped: Samples that are left out, by reason.
        num_characters: Size of the samples, for people.
        form: Of the images or features; None where the samples are texts.
        first_id: Of the first sample, for messages.
    """

    splits: dict[Split, SplitChunk] = field(default_factory=dict)
    ids: bytes = b""
    dropped: dict[str, int] = field(default_factory=dict)
    num_characters: int = 0
    form: Form | None = None
    first_id: str = ""

    def to_bytes(self) -> bytes:
        """Writes it so that `from_bytes` reads the same."""
        blobs = [getattr(self.splits[split], name) for split in SPLITS for name in _BLOBS]
        sizes = [len(blob) for blob in (*blobs, self.ids)]
        content = {
            "sizes": sizes,
            "dropped": self.dropped,
            "num_characters": self.num_characters,
            "form": None if self.form is None else [self.form.dtype, self.form.shape],
            "first_id": self.first_id,
        }
        header = json.dumps(content).encode()
        return b"".join([len(header).to_bytes(_HEADER_BYTES, "little"), header, *blobs, self.ids])

    @classmethod
    def from_bytes(cls, data: bytes) -> EncodedChunk:
        """Reads what `to_bytes` wrote."""
        start = _HEADER_BYTES + int.from_bytes(data[:_HEADER_BYTES], "little")
        header = json.loads(data[_HEADER_BYTES:start])
        blobs = []
        for size in header["sizes"]:
            blobs.append(data[start : start + size])
            start += size
        num_blobs = len(_BLOBS)
        splits = {
            split: SplitChunk(*blobs[idx * num_blobs : (idx + 1) * num_blobs])
            for idx, split in enumerate(SPLITS)
        }
        form = header["form"] and Form(header["form"][0], tuple(header["form"][1]))
        counts = header["dropped"], header["num_characters"]
        return cls(splits, blobs[-1], *counts, form, header["first_id"])


@dataclass(frozen=True)
class ChunkEncoder:
    """All that turns samples into chunks; it can be sent to another process.

    Attributes:
        source: The source's name, for messages.
        tokenizer: Encodes them.
        learn: Which tokens of pairs and chats are learnt.
        rule: Which documents are held out.
    """

    source: str
    tokenizer: Tokenizer
    learn: Learn
    rule: SplitRule

    def __reduce__(self) -> tuple[type[ChunkEncoder], tuple[object, ...]]:
        return ChunkEncoder, (self.source, self.tokenizer, self.learn, self.rule)

    def encode(self, samples: Sequence[Sample]) -> EncodedChunk:
        """Encodes samples.

        Raises:
            DataError: One of them cannot be; its id is named.
        """
        encoded = self._encode(samples)
        chunk = EncodedChunk(ids=b"".join(id_digest(sample.id) for sample in samples))
        chunk.num_characters = sum(map(_size, samples))
        chunk.form = common_form(samples, self.source)
        chunk.first_id = samples[0].id if samples else ""
        kept = [one for one in encoded if isinstance(one, EncodedSample)]
        chunk.dropped = dict(Counter(one.reason for one in encoded if isinstance(one, Dropped)))
        for split in SPLITS:
            is_apart = split == "held_out"
            chunk.splits[split] = self._pack(
                [one for one in kept if self.rule.holds_out(one.document) is is_apart]
            )
        return chunk

    def _encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        try:
            return self._encoder.encode(samples)
        except Exception:
            for sample in samples:
                self._require_encodable(sample)
            raise

    def _require_encodable(self, sample: Sample) -> None:
        """Encodes one sample alone, so that the one to blame is named."""
        try:
            self._encoder.encode([sample])
        except PhaselineError:
            raise
        except Exception as error:
            raise DataError(
                f"sample {sample.id!r} of {self.source} cannot be encoded: "
                f"{type(error).__name__}: {error}. Correct it, or leave it out of the source."
            ) from error

    @cached_property
    def _encoder(self) -> SampleEncoder:
        return SampleEncoder(self.tokenizer, self.learn)

    def _pack(self, samples: Sequence[EncodedSample]) -> SplitChunk:
        labels = [sample.label for sample in samples if sample.label is not None]
        chunk = self._pack_tokens(samples)
        chunk.labels = np.array(labels, "<i8").tobytes()
        return chunk

    def _pack_tokens(self, samples: Sequence[EncodedSample]) -> SplitChunk:
        if samples and samples[0].numbers is not None:
            return _pack_numbers(samples)
        dtype = token_dtype(self.tokenizer.vocab_size)
        sequences = [sequence for sample in samples for sequence in sample.sequences]
        packed = [sequence.tokens.astype(dtype).tobytes() for sequence in sequences]
        contents = []
        start = 0
        for sample in samples:
            digest = hashlib.blake2b(digest_size=8)
            for tokens in packed[start : start + len(sample.sequences)]:
                digest.update(tokens)
            start += len(sample.sequences)
            contents.append(digest.digest())
        lengths = np.array([len(sequence.tokens) for sequence in sequences], "<i8")
        learnt = [
            bytes([1]) * len(sequence.tokens)
            if sequence.learnt is None
            else sequence.learnt.astype(np.uint8).tobytes()
            for sequence in sequences
        ]
        return SplitChunk(b"".join(packed), b"".join(learnt), lengths.tobytes(), b"".join(contents))


def _pack_numbers(samples: Sequence[EncodedSample]) -> SplitChunk:
    packed = [sample.numbers.tobytes() for sample in samples if sample.numbers is not None]
    contents = [hashlib.blake2b(numbers, digest_size=8).digest() for numbers in packed]
    return SplitChunk(numbers=b"".join(packed), contents=b"".join(contents))


def in_chunks(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Cuts samples into runs of a size that is worth sending; the same each time."""
    run: list[Sample] = []
    size = 0
    for sample in samples:
        run.append(sample)
        size += _size(sample)
        if size >= _CHUNK_CHARACTERS or len(run) >= _CHUNK_SAMPLES:
            yield run
            run, size = [], 0
    if run:
        yield run


def id_digest(sample_id: str) -> bytes:
    """Eight bytes that stand for an id."""
    return hashlib.blake2b(sample_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """The narrowest type that holds every token of a vocabulary, little endian."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def _size(sample: Sample) -> int:
    """Characters of a sample, or numbers if it holds those; about right is enough."""
    if isinstance(sample, Document):
        return len(sample.text)
    if isinstance(sample, TokenDocument):
        return len(sample.tokens)
    if isinstance(sample, Pair):
        return len(sample.prompt) + len(sample.completion)
    if isinstance(sample, Labelled):
        is_text = isinstance(sample.inputs, str)
        return len(sample.inputs) if is_text else int(np.size(sample.inputs))
    if isinstance(sample, Chat):
        return _turns_size(sample.messages)
    assert isinstance(sample, Preference)
    return sum(map(_turns_size, (sample.prompt, sample.chosen, sample.rejected)))


def _turns_size(part: str | Sequence[dict[str, object]]) -> int:
    if isinstance(part, str):
        return len(part)
    return sum(len(str(message.get("content") or "")) for message in part)
