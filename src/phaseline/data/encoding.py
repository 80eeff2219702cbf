"""Samples as tokens, and which of these tokens are learnt. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phaseline.data.chat_template import ChatTemplate, UnusableChatError
from phaseline.data.labels import checked_label, checked_numbers
from phaseline.data.sources.protocol import (
    Chat,
    Document,
    Labelled,
    Pair,
    Preference,
    Sample,
    Shape,
    TokenDocument,
)
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phaseline.config.data_section import Learn
    from phaseline.data.tokenizer import Tokenizer

SEQUENCES_PER_SAMPLE: dict[Shape, int] = {
    "text": 1,
    "pairs": 1,
    "chats": 1,
    "preferences": 2,
    "labelled": 1,
}
"""Of each shape; images and features have none. Of a preference the chosen one comes first."""


@dataclass(frozen=True, eq=False)
class EncodedSequence:
    """Tokens that go through the model as one.

    Attributes:
        tokens: As they are trained on, `[tokens]`.
        learnt: Of each token whether it is to be predicted, `[tokens]`; None: all are.
    """

    tokens: NDArray[np.integer[Any]]
    learnt: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class EncodedSample:
    """A sample as it is stored.

    Attributes:
        document: Decides on which side of the split the sample falls.
        sequences: One; of a preference two, the chosen and the rejected; of numbers none.
        label: Its class; None of a sample that has none.
        numbers: An image or a row of features, little endian; None of everything else.
    """

    document: str
    sequences: tuple[EncodedSequence, ...]
    label: int | None = None
    numbers: NDArray[Any] | None = None


@dataclass(frozen=True)
class Dropped:
    """A sample that is left out.

    Attributes:
        reason: Why, as it is counted and shown.
    """

    reason: str


Encoded = EncodedSample | Dropped


class SampleEncoder:
    """Encodes samples, many at once because that is how tokenizers are fast."""

    def __init__(self, tokenizer: Tokenizer, learn: Learn = "answers") -> None:
        """Takes what decides the tokens and the mask.

        Args:
            tokenizer: Encodes the text.
            learn: Whether of pairs and chats only the answers are learnt, or everything.
                Of preferences it is always the answers.
        """
        self._tokenizer = tokenizer
        self._learns_all = learn == "all"
        self._template = ChatTemplate(tokenizer)
        self._encoders: dict[type[Sample], Callable[[Any], list[Encoded]]] = {
            Document: self._documents,
            TokenDocument: self._token_documents,
            Pair: self._pairs,
            Chat: self._chats,
            Preference: self._preferences,
            Labelled: self._labelled,
        }

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        """Encodes samples of any shape, in order.

        Raises:
            DataError: A sample cannot be encoded whatever is left out; its id is named.
        """
        encoded: list[Encoded] = []
        for kind, run in groupby(samples, type):
            encoded += self._encoders[kind](list(run))
        return encoded

    def _documents(self, samples: Sequence[Document]) -> list[Encoded]:
        texts = self._tokenizer.encode_batch([sample.text for sample in samples])
        return [
            self._text(sample.id, np.array(tokens, np.int64))
            for sample, tokens in zip(samples, texts, strict=True)
        ]

    def _token_documents(self, samples: Sequence[TokenDocument]) -> list[Encoded]:
        for sample in samples:
            _require_in_vocabulary(sample, self._tokenizer.vocab_size)
        return [self._text(sample.id, sample.tokens) for sample in samples]

    def _text(self, document: str, tokens: NDArray[np.integer[Any]]) -> Encoded:
        if len(tokens) == 0:
            return Dropped("empty text")
        return EncodedSample(document, (EncodedSequence(self._ended(tokens)),))

    def _pairs(self, samples: Sequence[Pair]) -> list[Encoded]:
        prompts = self._tokenizer.encode_batch([sample.prompt for sample in samples])
        answers = self._tokenizer.encode_batch([sample.completion for sample in samples])
        return [
            EncodedSample(_document(sample), (self._answered(prompt, answer, self._learns_all),))
            if answer
            else Dropped("empty completion")
            for sample, prompt, answer in zip(samples, prompts, answers, strict=True)
        ]

    def _answered(
        self, prompt: Sequence[int], answer: Sequence[int], learns_all: bool = False
    ) -> EncodedSequence:
        tokens = self._ended(np.array([*prompt, *answer], np.int64))
        return EncodedSequence(tokens, learns_all | (np.arange(len(tokens)) >= len(prompt)))

    def _chats(self, samples: Sequence[Chat]) -> list[Encoded]:
        return [self._chat(sample) for sample in samples]

    def _chat(self, sample: Chat) -> Encoded:
        try:
            sequence = self._template.encode(
                sample.id, sample.messages, sample.tools, learns_all=self._learns_all
            )
        except UnusableChatError as error:
            return Dropped(str(error))
        return EncodedSample(_document(sample), (EncodedSequence(*sequence),))

    def _preferences(self, samples: Sequence[Preference]) -> list[Encoded]:
        return [self._preference(sample) for sample in samples]

    def _preference(self, sample: Preference) -> Encoded:
        if not sample.chosen or not sample.rejected:
            return Dropped("empty answer")
        if sample.chosen == sample.rejected:
            return Dropped("both answers are the same")
        try:
            both = tuple(self._answer(sample, part) for part in (sample.chosen, sample.rejected))
        except UnusableChatError as error:
            return Dropped(str(error))
        return EncodedSample(_document(sample), both)

    def _answer(self, sample: Preference, answer: str | Sequence[Any]) -> EncodedSequence:
        """The prompt and one of the answers, which alone is learnt."""
        if isinstance(sample.prompt, str) and isinstance(answer, str):
            prompt, completion = self._tokenizer.encode_batch([sample.prompt, answer])
            return self._answered(prompt, completion)
        if isinstance(sample.prompt, str):
            raise DataError(
                f"Sample {sample.id!r} has a text as its prompt and turns as its answer; a "
                "preference must have texts or turns in both."
            )
        turns = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
        messages = [*sample.prompt, *turns]
        return EncodedSequence(
            *self._template.encode(sample.id, messages, num_read=len(sample.prompt))
        )

    def _labelled(self, samples: Sequence[Labelled]) -> list[Encoded]:
        texts = [sample.inputs for sample in samples if isinstance(sample.inputs, str)]
        tokens = iter(self._tokenizer.encode_batch(texts) if texts else ())
        return [
            self._labelled_text(sample, next(tokens))
            if isinstance(sample.inputs, str)
            else EncodedSample(
                _document(sample), (), checked_label(sample), checked_numbers(sample)
            )
            for sample in samples
        ]

    def _labelled_text(self, sample: Labelled, tokens: Sequence[int]) -> Encoded:
        label = checked_label(sample)
        if not tokens:
            return Dropped("empty text")
        sequence = EncodedSequence(self._ended(np.array(tokens, np.int64)))
        return EncodedSample(_document(sample), (sequence,), label)

    def _ended(self, tokens: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
        return np.append(tokens, tokens.dtype.type(self._tokenizer.eos_id))


def _document(sample: Pair | Chat | Preference | Labelled) -> str:
    return sample.id if sample.document is None else sample.document


def _require_in_vocabulary(sample: TokenDocument, vocab_size: int) -> None:
    tokens = sample.tokens
    if not np.issubdtype(tokens.dtype, np.integer) or tokens.ndim != 1:
        raise DataError(
            f"Sample {sample.id!r} has tokens of type {tokens.dtype} and shape {tokens.shape}; "
            "they must be whole numbers in one row."
        )
    if len(tokens) and not (int(tokens.min()) >= 0 and int(tokens.max()) < vocab_size):
        raise DataError(
            f"Sample {sample.id!r} has tokens from {tokens.min()} to {tokens.max()}, but the "
            f"tokenizer has {vocab_size} entries. It was tokenised with another tokenizer: name "
            "that one in `tokenizer`."
        )
