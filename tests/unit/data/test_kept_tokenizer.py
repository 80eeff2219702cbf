"""Tokenizers of a session whose origin is gone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from phaseline.config.data_section import TokenizerSection
from phaseline.config.places import Places, looking_in
from phaseline.data.cache import Cache
from phaseline.data.tokenizer import Tokenizer
from phaseline.data.tokenizer_building import build_tokenizer, section_text
from phaseline.errors import DataError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PHASELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Tokenizer.of_bytes(["<more>"]).save(tmp_path / "owner" / "base")
    (tmp_path / "template.jinja").write_text("{{ messages }}")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text("a few words of text " * 20)
    return tmp_path


def train(path: str) -> dict[str, Any]:
    return {
        "train": {"source": "text_files", "arguments": {"paths": [path]}, "vocab_size": 270},
    }


@pytest.mark.parametrize(
    ("section", "gone"),
    [
        ({"pretrained": "owner/base"}, "owner"),
        ({"pretrained": "owner/base", "chat_template": "template.jinja"}, "template.jinja"),
        ({"chat_template": "template.jinja"}, "template.jinja"),
        (train("corpus/*.txt"), "corpus"),
    ],
)
def test_kept_tokenizer_takes_the_place_of_what_is_gone(
    folder: Path, section: dict[str, Any], gone: str
) -> None:
    described = TokenizerSection.model_validate(section)
    made = build_tokenizer(described, Cache.of_user())
    made.save(folder / "kept")
    shutil.rmtree(folder / "cache", ignore_errors=True)
    (folder / gone).rename(folder / "elsewhere")
    with pytest.raises(DataError):
        build_tokenizer(described, Cache.of_user())
    places = Places(
        known=frozenset({"owner/base", "template.jinja"}),
        kept_tokenizer={section_text(described): folder / "kept"},
    )
    with looking_in(places):
        assert build_tokenizer(described, Cache.of_user()).fingerprint == made.fingerprint
        other = described.model_copy(update={"pad": "<more>"})
        with pytest.raises(DataError):
            build_tokenizer(other, Cache.of_user())


def test_tokenizer_that_is_there_is_read_so_that_a_change_shows(folder: Path) -> None:
    section = TokenizerSection(pretrained="owner/base")
    made = build_tokenizer(section, Cache.of_user())
    made.save(folder / "kept")
    Tokenizer.of_bytes(["<other>"]).save(folder / "owner" / "base")
    with looking_in(Places(kept_tokenizer={section_text(section): folder / "kept"})):
        assert build_tokenizer(section, Cache.of_user()).fingerprint != made.fingerprint
