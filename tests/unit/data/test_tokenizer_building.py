from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from phaseline.config.data_section import TokenizerSection
from phaseline.data.cache import Cache
from phaseline.data.chat_template import ChatTemplate
from phaseline.data.tokenizer import Tokenizer
from phaseline.data.tokenizer_building import build_tokenizer
from phaseline.errors import DataError

TEXT = "the théa 數 ate\n"
TEMPLATE = (
    "{% for m in messages %}{{ bos_token }}{{ m.role }}:{{ m.content }}{{ eos_token }}{% endfor %}"
)


def _build(cache: Path, **section: Any) -> Tokenizer:
    return build_tokenizer(TokenizerSection.model_validate(section), Cache(cache))


def _sentencepiece() -> Backend:
    """A BPE as of Llama 2: spaces as U+2581, bytes where letters are unknown."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["\u2581", *"thea", "th", "the", "\u2581the"]
    vocabulary = {token: idx for idx, token in enumerate(tokens)}
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the")]
    backend = Backend(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens([AddedToken(token) for token in ("<unk>", "<s>", "</s>")])
    return backend


def _unigram() -> Backend:
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("\u2581", -3.0)]
    pieces += [(letter, -4.0) for letter in "thea<>/s"] + [("\u2581the", -2.0)]
    backend = Backend(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens([AddedToken(token) for token in ("<unk>", "<s>", "</s>")])
    return backend


def _saved(folder: Path, backend: Backend, **settings: Any) -> Path:
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    content = {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_pretrained_tokenizer_brings_its_special_tokens_and_template(tmp_path: Path) -> None:
    folder = _saved(
        tmp_path / "base",
        _sentencepiece(),
        eos_token={"content": "</s>", "lstrip": False},
        bos_token="<s>",
        chat_template=[{"name": "default", "template": TEMPLATE}],
    )
    tokenizer = _build(tmp_path / "cache", pretrained=str(folder))
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (2, 2, 267)
    tokens, _ = ChatTemplate(tokenizer).encode(
        "a", [{"role": "the", "content": "the"}], learns_all=True
    )
    assert (int(tokens[0]), int(tokens[-1])) == (1, 2)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("make", [_sentencepiece, _unigram])
def test_pretrained_tokenizer_takes_special_tokens_in_a_text_as_text(
    tmp_path: Path, make: Callable[[], Backend]
) -> None:
    folder = _saved(tmp_path / "base", make(), eos_token="</s>")
    tokenizer = _build(tmp_path / "cache", pretrained=str(folder))
    assert not set(tokenizer.encode("the</s>the<s>")) & {1, 2}
    assert tokenizer.encode("the") == make().encode("the", add_special_tokens=False).ids


@pytest.mark.parametrize("make", [_sentencepiece, _unigram])
def test_chat_gives_the_tokens_of_transformers_when_its_vocabulary_is_sentencepiece(
    tmp_path: Path, make: Callable[[], Backend]
) -> None:
    from transformers import AutoTokenizer

    folder = _saved(
        tmp_path / "base", make(), eos_token="</s>", bos_token="<s>", chat_template=TEMPLATE
    )
    chat = [{"role": "ate", "content": "the tea"}, {"role": "assistant", "content": "the"}]
    theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template(chat, return_dict=True)
    tokenizer = _build(tmp_path / "cache", pretrained=str(folder))
    assert ChatTemplate(tokenizer).encode("a", chat)[0].tolist() == theirs["input_ids"]


def test_token_bytes_sum_to_the_text_and_its_leading_space_when_sentencepiece(
    tmp_path: Path,
) -> None:
    folder = _saved(tmp_path / "base", _sentencepiece(), eos_token="</s>")
    tokenizer = _build(tmp_path / "cache", pretrained=str(folder))
    ids = np.array(tokenizer.encode(TEXT), np.int64)
    assert tokenizer.token_bytes[ids].sum() == len(f" {TEXT}".encode())
    assert tokenizer.token_bytes[[0, 1, 2]].tolist() == [0, 0, 0]


def test_token_bytes_sum_to_the_text_when_byte_level_with_added_words(tmp_path: Path) -> None:
    Tokenizer.train(iter([TEXT * 20]), 280).save(tmp_path / "base")
    backend = Backend.from_file(str(tmp_path / "base" / "tokenizer.json"))
    backend.add_tokens([AddedToken("théa", special=False)])
    backend.save(str(tmp_path / "base" / "tokenizer.json"))
    tokenizer = _build(tmp_path / "cache", pretrained=str(tmp_path / "base"))
    ids = np.array(tokenizer.encode(TEXT), np.int64)
    assert tokenizer.vocab_size - 1 in ids
    assert tokenizer.token_bytes[ids].sum() == len(TEXT.encode())


def test_exported_tokenizer_loads_in_transformers_with_all_that_was_set(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = _saved(tmp_path / "base", _sentencepiece(), eos_token="</s>", bos_token="<s>")
    tokenizer = _build(
        tmp_path / "cache",
        pretrained=str(folder),
        eos="<end>",
        pad="<none>",
        special_tokens=["<end>", "<none>", "<call>"],
        chat_template=TEMPLATE,
    )
    tokenizer.save(tmp_path / "export")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "export")
    assert (loaded.eos_token, loaded.pad_token, loaded.bos_token) == ("<end>", "<none>", "<s>")
    assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.eos_id, tokenizer.pad_id)
    assert loaded.chat_template == TEMPLATE
    assert len(loaded) == tokenizer.vocab_size == 270
    assert loaded("the<call>")["input_ids"][-1] == 269
    again = _build(tmp_path / "cache", pretrained=str(tmp_path / "export"))
    assert again.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize(
    ("settings", "section", "message"),
    [
        ({}, {}, "names no end-of-sequence token. Set tokenizer.eos"),
        ({"eos_token": "</s>"}, {"pad": "<pad>"}, "no token '<pad>'.*tokenizer.special_tokens"),
        ({"eos_token": "<eos>"}, {}, "has no token '<eos>'"),
        ({"eos_token": "</s>"}, {"chat_template": "none.jinja"}, "a file that cannot be read"),
    ],
)
def test_pretrained_tokenizer_is_refused_when_a_token_is_missing(
    tmp_path: Path, settings: dict[str, Any], section: dict[str, Any], message: str
) -> None:
    folder = _saved(tmp_path / "base", _sentencepiece(), **settings)
    with pytest.raises(DataError, match=message):
        _build(tmp_path / "cache", pretrained=str(folder), **section)


def test_pretrained_tokenizer_needs_no_name_of_its_end_when_one_is_set(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "base", _sentencepiece())
    assert _build(tmp_path / "cache", pretrained=str(folder), eos="</s>").eos_id == 2


def test_pretrained_folder_is_refused_when_it_holds_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no tokenizer.json.*save_pretrained"):
        _build(tmp_path / "cache", pretrained=str(tmp_path))
    with pytest.raises(DataError, match=r"no such folder below .* no name of a model"):
        _build(tmp_path / "cache", pretrained="./not/here")


def test_chat_template_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(TEMPLATE, encoding="utf-8")
    tokenizer = _build(tmp_path / "cache", chat_template=str(tmp_path / "chat.jinja"))
    assert tokenizer.settings.chat_template == TEMPLATE


def test_tokenizer_is_trained_on_several_sources(corpus: str, cache_folder: Path) -> None:
    Path("more.txt").write_text("zebra " * 500, encoding="utf-8")
    texts = [
        {"source": "text_files", "arguments": {"paths": [path]}} for path in (corpus, "more.txt")
    ]
    one = _build(cache_folder, train={**texts[0], "vocab_size": 300})
    both = _build(cache_folder, train={"sources": texts, "vocab_size": 300})
    special = _build(
        cache_folder, train={"sources": texts, "vocab_size": 300}, special_tokens=["<a>"]
    )
    assert len(both.encode("zebra zebra")) < len(one.encode("zebra zebra"))
    assert len({one.fingerprint, both.fingerprint, special.fingerprint}) == 3
    assert special.vocab_size == 300
    assert len(list((cache_folder / "tokenizers").glob("*.lock"))) == 3


def test_bytes_tokenizer_takes_further_special_tokens(cache_folder: Path) -> None:
    tokenizer = _build(cache_folder, special_tokens=["<a>"], eos="<end>")
    assert tokenizer.vocab_size == 260
    assert tokenizer.decode([tokenizer.eos_id, 259], special=True) == "<end><a>"


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's own cache, empty, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.usefixtures("offline")
def test_hub_tokenizer_says_so_when_there_is_no_network(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"'org/base', which is neither a folder nor on this machine.*a network"
    ):
        _build(tmp_path / "cache", pretrained="org/base")
    assert [path.suffix for path in (tmp_path / "cache" / "tokenizers").iterdir()] == [".lock"]


def test_hub_tokenizer_needs_no_network_once_it_was_found(offline: Path, tmp_path: Path) -> None:
    import shutil

    commit = "0" * 40
    model = offline / "models--org--base"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit, encoding="utf-8")
    (model / "snapshots").mkdir()
    _saved(model / "snapshots" / commit, _sentencepiece(), eos_token="</s>")
    first = _build(tmp_path / "cache", pretrained="org/base")
    shutil.rmtree(offline)
    assert _build(tmp_path / "cache", pretrained="org/base").fingerprint == first.fingerprint
