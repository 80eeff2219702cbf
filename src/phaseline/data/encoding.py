"""Samples as tokens, and which of these tokens are learnt. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from phaseline.data.sources.protocol import Document, Pair, Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phaseline.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class EncodedSequence:
    """Tokens that go through the model as one.

    Attributes:
        tokens: With the end-of-sequence token, if there is one.
        learnt: A byte per token: 1 if it is to be predicted, 0 if it is only read. None: all
            are to be predicted.
    """

    tokens: Sequence[int]
    learnt: bytes | None = None


@dataclass(frozen=True)
class EncodedSample:
    """A sample as it is stored.

    Attributes:
        document: Decides on which side of the split the sample falls.
        sequences: One; of a preference two, the chosen and the rejected.
    """

    document: str
    sequences: tuple[EncodedSequence, ...]


@dataclass(frozen=True)
class Dropped:
    """A sample that is left out.

    Attributes:
        reason: Why, as it is counted and shown.
    """

    reason: str


class SampleEncoder:
    """Encodes samples, many at once because that is how tokenizers are fast."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, samples: Sequence[Sample]) -> list[EncodedSample | Dropped]:
        """Encodes samples of any shape, in order."""
        parts = [_parts(sample) for sample in samples]
        prompts = self._tokenizer.encode_batch([prompt for _, prompt, _ in parts])
        texts = self._tokenizer.encode_batch([text for _, _, text in parts])
        encoded: list[EncodedSample | Dropped] = []
        for sample, part, prompt, text in zip(samples, parts, prompts, texts, strict=True):
            is_text = isinstance(sample, Document)
            if not text:
                encoded.append(Dropped("empty text" if is_text else "empty completion"))
                continue
            tokens = [*prompt, *text, self._tokenizer.eos_id]
            learnt = None if is_text else bytes(len(prompt)) + b"\1" * (len(text) + 1)
            encoded.append(EncodedSample(part[0], (EncodedSequence(tokens, learnt),)))
        return encoded


def _parts(sample: Sample) -> tuple[str, str, str]:
    """Document, what is only read, and what is learnt."""
    if isinstance(sample, Document):
        return sample.id, "", sample.text
    assert isinstance(sample, Pair)
    document = sample.id if sample.document is None else sample.document
    return document, sample.prompt, sample.completion
