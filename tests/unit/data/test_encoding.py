from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from phaseline.data.encoding import Dropped, EncodedSample, SampleEncoder
from phaseline.data.sources import Chat, Document, Pair, Preference, Sample, TokenDocument
from phaseline.data.tokenizer import Tokenizer
from phaseline.errors import DataError

BYTES = Tokenizer.of_bytes()
ENCODER = SampleEncoder(BYTES)
EOS = BYTES.eos_id


def _one(sample: Sample, encoder: SampleEncoder = ENCODER) -> EncodedSample:
    (encoded,) = encoder.encode([sample])
    assert isinstance(encoded, EncodedSample)
    return encoded


def _learnt(encoded: EncodedSample) -> list[list[int]]:
    return [
        sequence.tokens[sequence.learnt].tolist()
        for sequence in encoded.sequences
        if sequence.learnt is not None
    ]


def _says(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_encoder_ends_text_and_keeps_the_order_when_kinds_are_mixed() -> None:
    samples: list[Sample] = [
        Document("a", "one"),
        TokenDocument("b", np.array([1, 2], np.uint16)),
        Document("c", ""),
    ]
    first, second, third = ENCODER.encode(samples)
    assert isinstance(first, EncodedSample)
    assert isinstance(second, EncodedSample)
    assert first.sequences[0].tokens.tolist() == [*b"one", EOS]
    assert second.sequences[0].tokens.tolist() == [1, 2, EOS]
    assert second.sequences[0].tokens.dtype == np.uint16
    assert third == Dropped("empty text")


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.array([0, 259]), "'a' has tokens from 0 to 259, but the tokenizer has 259 entries"),
        (np.array([-1]), "'a' has tokens from -1"),
        (np.array([0.5]), "tokens of type float64"),
        (np.zeros((2, 2), np.int64), r"shape \(2, 2\)"),
    ],
)
def test_encoder_refuses_tokens_that_the_tokenizer_has_not(tokens: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ENCODER.encode([TokenDocument("a", tokens)])


def test_encoder_learns_completions_of_pairs_or_everything() -> None:
    pair = Pair("a", "ask", "say", "file")
    assert _learnt(_one(pair)) == [[*b"say", EOS]]
    assert _one(pair).document == "file"
    assert _learnt(_one(pair, SampleEncoder(BYTES, "all"))) == [[*b"asksay", EOS]]
    assert ENCODER.encode([Pair("a", "ask", "")]) == [Dropped("empty completion")]


def test_encoder_learns_answers_of_chats_or_everything() -> None:
    chat = Chat("a", [_says("user", "hi"), _says("assistant", "yo")])
    assert _learnt(_one(chat)) == [[*b"yo", EOS]]
    everything = _one(chat, SampleEncoder(BYTES, "all"))
    assert _learnt(everything) == [everything.sequences[0].tokens.tolist()]
    assert ENCODER.encode([Chat("a", [_says("user", "x")])]) == [Dropped("no answer in the chat")]


@pytest.mark.parametrize("learn", ["answers", "all"])
@pytest.mark.parametrize("prompt", ["ask", [_says("user", "ask"), _says("assistant", "what?")]])
def test_encoder_gives_chosen_then_rejected_of_a_preference(prompt: Any, learn: Any) -> None:
    encoded = _one(Preference("a", prompt, "good", "bad"), SampleEncoder(BYTES, learn))
    assert _learnt(encoded) == [[*b"good", EOS], [*b"bad", EOS]]


def test_encoder_learns_answers_alone_when_a_preference_holds_turns() -> None:
    sample = Preference(
        "a",
        [_says("user", "ask"), _says("assistant", "what?")],
        [_says("user", "that"), _says("assistant", "good")],
        [_says("user", "that"), _says("assistant", "bad")],
    )
    assert _learnt(_one(sample)) == [[*b"good", EOS], [*b"bad", EOS]]


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [("", "x", "empty answer"), ("x", "", "empty answer"), ("x", "x", "both answers are the same")],
)
def test_encoder_leaves_a_preference_out_when_nothing_is_preferred(
    chosen: str, rejected: str, reason: str
) -> None:
    assert ENCODER.encode([Preference("a", "ask", chosen, rejected)]) == [Dropped(reason)]


def test_encoder_refuses_a_preference_when_its_parts_do_not_go_together() -> None:
    with pytest.raises(DataError, match="'a' has a text as its prompt and turns as its answer"):
        ENCODER.encode(
            [Preference("a", "ask", [_says("assistant", "x")], [_says("assistant", "y")])]
        )


def test_encoder_leaves_a_chat_out_when_its_template_refuses_it() -> None:
    (dropped,) = ENCODER.encode([Chat("a", [{"role": "user", "content": None}])])
    assert isinstance(dropped, Dropped)
    assert dropped.reason.startswith("the chat template refuses it: ")
