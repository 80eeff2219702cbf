from __future__ import annotations

import json
import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models

from phaseline.config.data_section import TokenizerSection
from phaseline.config.known import OWN_EOS as EOS
from phaseline.config.known import OWN_PAD as PAD
from phaseline.data.cache import Cache
from phaseline.data.tokenizer import OWN_SETTINGS, Tokenizer
from phaseline.data.tokenizer_building import build_tokenizer
from phaseline.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ["def add(first, second):\n    return first + second\n" * 5, "größer 数\t\r\n"]
TRAINED = Tokenizer.train(iter(TEXTS), 280)
BYTES = Tokenizer.of_bytes()
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(text=ANY_TEXT)
def test_tokenizer_gives_the_text_back_when_it_is_any_text(text: str) -> None:
    for tokenizer in (BYTES, TRAINED):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=ANY_TEXT)
def test_token_bytes_sum_to_the_bytes_of_the_text_when_it_is_any_text(text: str) -> None:
    for tokenizer in (BYTES, TRAINED):
        ids = np.array(tokenizer.encode(text), np.int64)
        assert tokenizer.token_bytes[ids].sum() == len(text.encode())


@given(text=ANY_TEXT)
def test_bytes_tokenizer_gives_byte_values_when_it_encodes(text: str) -> None:
    assert BYTES.encode(text) == list(text.encode())


def test_bytes_tokenizer_has_259_entries_when_built() -> None:
    assert BYTES.vocab_size == 259
    assert (BYTES.eos_id, BYTES.pad_id) == (256, 257)
    assert BYTES.token_bytes.tolist() == [1] * 256 + [0, 0, 0]
    assert BYTES.token_bytes.dtype == np.int32


def test_tokenizer_never_gives_special_tokens_when_the_text_spells_them() -> None:
    for tokenizer in (BYTES, TRAINED):
        ids = tokenizer.encode(f"a{EOS}b{PAD}")
        assert not {tokenizer.eos_id, tokenizer.pad_id} & set(ids)
        assert tokenizer.decode(ids) == f"a{EOS}b{PAD}"


def test_tokenizer_leaves_special_tokens_out_when_it_decodes() -> None:
    assert TRAINED.decode([*TRAINED.encode("end"), TRAINED.eos_id, TRAINED.pad_id]) == "end"


def test_encode_batch_equals_encode_when_texts_are_many() -> None:
    assert TRAINED.encode_batch(TEXTS) == [TRAINED.encode(text) for text in TEXTS]


def test_training_gives_the_same_tokenizer_when_repeated() -> None:
    again = Tokenizer.train(iter(TEXTS), 280)
    assert again.fingerprint == TRAINED.fingerprint
    assert again.vocab_size == 280
    assert Tokenizer.train(iter(TEXTS), 270).fingerprint != TRAINED.fingerprint


def test_tokenizer_is_the_same_when_saved_and_loaded(tmp_path: Path) -> None:
    for name, tokenizer in (("bytes", BYTES), ("trained", TRAINED)):
        tokenizer.save(tmp_path / name)
        loaded = Tokenizer.load(tmp_path / name)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.encode(f"{TEXTS[1]}{EOS}") == tokenizer.encode(f"{TEXTS[1]}{EOS}")


def test_tokenizer_loads_in_transformers_when_saved(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for name, tokenizer in (("bytes", BYTES), ("trained", TRAINED)):
        tokenizer.save(tmp_path / name)
        loaded = AutoTokenizer.from_pretrained(tmp_path / name)
        assert len(loaded) == tokenizer.vocab_size
        assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.eos_id, tokenizer.pad_id)
        assert loaded(TEXTS[0])["input_ids"] == tokenizer.encode(TEXTS[0])
        assert loaded.decode(tokenizer.encode(TEXTS[1])) == TEXTS[1]
        assert loaded.chat_template == tokenizer.settings.chat_template


def test_tokenizer_is_refused_when_it_lacks_a_special_token() -> None:
    with pytest.raises(DataError, match="has no token '<eos>'"):
        Tokenizer(Backend(models.BPE()))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"eos": "<pad>"}, "special tokens"),
        ({"chat_template": "{{ messages }}"}, "chat template"),
    ],
)
def test_fingerprint_tells_which_part_differs_when_settings_do(
    change: dict[str, Any], part: str
) -> None:
    other = Tokenizer(BYTES._backend, replace(OWN_SETTINGS, **change))
    assert other.fingerprint != BYTES.fingerprint
    assert [name for name in BYTES.parts if other.parts[name] != BYTES.parts[name]] == [part]


def test_tokenizer_is_the_same_in_another_process_when_sent_there() -> None:
    again = pickle.loads(pickle.dumps(TRAINED))
    assert again.fingerprint == TRAINED.fingerprint
    assert again.encode(TEXTS[0] + EOS) == TRAINED.encode(TEXTS[0] + EOS)


def test_build_tokenizer_trains_once_when_asked_twice(corpus: str, cache_folder: Path) -> None:
    section = TokenizerSection.model_validate(
        {"train": {"source": "text_files", "arguments": {"paths": [corpus]}, "vocab_size": 280}}
    )
    reports: list[str] = []
    first = build_tokenizer(section, Cache(cache_folder), reports.append)
    second = build_tokenizer(section, Cache(cache_folder), reports.append)
    assert reports == ["training a tokenizer of 280 entries on text_files"]
    assert first.fingerprint == second.fingerprint
    assert first.vocab_size == 280


def test_build_tokenizer_gives_bytes_when_nothing_is_configured(cache_folder: Path) -> None:
    tokenizer = build_tokenizer(TokenizerSection(), Cache(cache_folder))
    assert tokenizer.fingerprint == BYTES.fingerprint
    assert not cache_folder.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", b"[]", "is JSON, and no object"),
        ("special_tokens_map.json", b"3", "is JSON, and no object"),
        ("tokenizer_config.json", b"[" * 100_000, "is no JSON"),
        ("tokenizer_config.json", b"\xff", "is no JSON"),
        ("tokenizer_config.json", b'{"eos_token": 5}', "eos_token of .* is 5; it must be a text"),
        ("tokenizer_config.json", b'{"pad_token": {"x": 1}}', "pad_token of .* is {'x': 1}"),
        ("tokenizer_config.json", b'{"eos_token": {"content": 3}}', "eos_token of .* must be"),
        ("chat_template.jinja", b"\xff", "chat_template.jinja is not UTF-8"),
    ],
)
def test_damaged_file_of_a_tokenizer_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    Tokenizer.of_bytes().save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("templates", ["[3]", '[{"name": "default"}]', '[{"template": "x"}]'])
def test_list_of_templates_without_a_default_gives_none(tmp_path: Path, templates: str) -> None:
    Tokenizer.of_bytes().save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    config = {"eos_token": EOS, "unk_token": {}, "chat_template": json.loads(templates)}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    settings = Tokenizer.load(tmp_path).settings
    assert settings.chat_template is None
    assert "unk_token" not in settings.template_variables
