from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from phaseline.config.known import OWN_EOS as EOS
from phaseline.config.known import OWN_PAD as PAD
from phaseline.data.cache import Cache, always_proceed
from phaseline.data.progress import PlainProgress
from phaseline.data.sources import Document, Pair
from phaseline.data.split import SplitRule
from phaseline.data.store import SplitData, Store, read_store
from phaseline.data.store_request import StoreRequest, Workshop
from phaseline.data.tokenizer import Tokenizer
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BYTES = Tokenizer.of_bytes()
RULE = SplitRule(5, 0.3)


class Texts:
    shape: Literal["text"] = "text"

    def __init__(self, *texts: tuple[str, str]) -> None:
        self._texts = texts

    def fingerprint(self) -> str:
        return repr(self._texts)

    def samples(self) -> Iterator[Document]:
        for document_id, text in self._texts:
            yield Document(document_id, text)


class Pairs:
    shape: Literal["pairs"] = "pairs"

    def __init__(self, *pairs: Pair) -> None:
        self._pairs = pairs

    def fingerprint(self) -> str:
        return repr(self._pairs)

    def samples(self) -> Iterator[Pair]:
        yield from self._pairs


def _store(folder: Path, source: Texts | Pairs, tokenizer: Tokenizer = BYTES) -> Store:
    shop = Workshop(Cache(folder), 2, _ignore, always_proceed, PlainProgress(_ignore))
    request = StoreRequest("made", source, source.fingerprint(), tokenizer, "answers", RULE)
    return read_store(request.obtain(shop))


def _ignore(_: str) -> None:
    pass


def _documents(data: SplitData) -> list[list[int]]:
    return [
        data.tokens[start:end].tolist()
        for start, end in zip(data.offsets[:-1], data.offsets[1:], strict=True)
    ]


def test_store_holds_every_text_once_and_in_order_when_read_back(tmp_path: Path) -> None:
    texts = [(f"id {idx}", f"text {idx} é") for idx in range(200)]
    store = _store(tmp_path, Texts(*texts))
    for data, side in ((store.train, False), (store.held_out, True)):
        assert _documents(data) == [
            [*text.encode(), BYTES.eos_id]
            for document_id, text in texts
            if RULE.holds_out(document_id) is side
        ]
        assert data.tokens.dtype == np.uint16
        assert data.learnt is None
    assert store.train.num_documents + store.held_out.num_documents == 200
    assert store.shape == "text"


def test_store_marks_prompts_when_it_holds_pairs(tmp_path: Path) -> None:
    pairs = [Pair(f"id {idx}", "ask" * idx, f"answer {idx}") for idx in range(30)]
    store = _store(tmp_path, Pairs(*pairs))
    kept = [pair for pair in pairs if not RULE.holds_out(pair.id)]
    assert store.train.learnt is not None
    assert store.train.learnt.tobytes() == b"".join(
        bytes(len(pair.prompt)) + b"\1" * (len(pair.completion) + 1) for pair in kept
    )
    assert [bytes(tokens[:-1]).decode() for tokens in _documents(store.train)] == [
        pair.prompt + pair.completion for pair in kept
    ]


def test_store_keeps_pairs_of_one_document_together_when_it_splits(tmp_path: Path) -> None:
    pairs = [
        Pair(f"{document}::{idx}", f"{document}", f"{idx}", document)
        for document in "abcdefghijklmnop"
        for idx in range(3)
    ]
    store = _store(tmp_path, Pairs(*pairs))
    for data, side in ((store.train, False), (store.held_out, True)):
        documents = {bytes(tokens[:1]).decode() for tokens in _documents(data)}
        assert documents == {name for name in "abcdefghijklmnop" if RULE.holds_out(name) is side}


def test_store_drops_and_counts_when_nothing_is_to_be_learnt(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "pairs").mkdir()
    texts = _store(tmp_path / "texts", Texts(("a", ""), ("b", "b"), ("c", "")))
    assert texts.dropped == {"empty text": 2}
    pairs = _store(tmp_path / "pairs", Pairs(Pair("a", "ask", ""), Pair("b", "", "answer")))
    assert pairs.dropped == {"empty completion": 1}


def test_store_has_an_empty_side_when_no_document_falls_there(tmp_path: Path) -> None:
    train_id = next(str(idx) for idx in range(50) if not RULE.holds_out(str(idx)))
    store = _store(tmp_path, Texts((train_id, "text")))
    assert store.held_out.num_documents == 0
    assert len(store.held_out.tokens) == 0


def test_store_takes_wider_tokens_when_the_vocabulary_is_large(tmp_path: Path) -> None:
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), EOS, PAD]
    more = [f"unused{idx}" for idx in range(1 << 16)]
    vocabulary = {token: idx for idx, token in enumerate([*more, *letters])}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(backend)
    train_id = next(str(idx) for idx in range(50) if not RULE.holds_out(str(idx)))
    store = _store(tmp_path, Texts((train_id, "text")), tokenizer)
    assert store.train.tokens.dtype == np.uint32
    assert store.train.tokens.tolist() == [*tokenizer.encode("text"), tokenizer.eos_id]


def test_store_is_refused_when_two_samples_have_one_id(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two samples with the id 'a'"):
        _store(tmp_path, Texts(("a", "first"), ("a", "second")))
