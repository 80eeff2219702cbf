"""Text to tokens and back, over any vocabulary of the `tokenizers` library.

Text never becomes a special token, whatever it spells: only what `mark_special` wrote does.
Imports neither torch nor transformers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from phaseline.config.known import OWN_EOS, OWN_PAD, OWN_TURN
from phaseline.data.fingerprints import fingerprint_of
from phaseline.data.sealed_vocabulary import SealedVocabulary
from phaseline.data.token_lengths import token_lengths
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"

# A turn ends with the end-of-sequence token, so that whatever generates stops there.
OWN_CHAT_TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>tools\\n' + tools | tojson + eos_token + '\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}
{{- message['content'] or '' }}
{%- if message['tool_calls'] %}{{- message['tool_calls'] | tojson }}{% endif %}
{{- eos_token }}
{%- endgeneration %}
{%- else %}
{{- message['content'] + eos_token }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""Of the tokenizers that are made here."""

_OWN_SETTINGS = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
}


@dataclass(frozen=True)
class TokenizerSettings:
    """What a tokenizer is besides its vocabulary.

    Attributes:
        eos: The token that ends a sequence.
        pad: The token that fills rows up. It may be `eos`: what is learnt is not told by it.
        chat_template: A jinja template that writes chats as text; None: there is none.
        others: Further settings of the tokenizer as transformers reads them.
    """

    eos: str = OWN_EOS
    pad: str = OWN_PAD
    chat_template: str | None = OWN_CHAT_TEMPLATE
    others: Mapping[str, Any] = field(default_factory=lambda: dict(_OWN_SETTINGS))

    @property
    def template_variables(self) -> dict[str, str]:
        """The special tokens by the names that chat templates know them by."""
        named = {
            key: token_text(value)
            for key, value in self.others.items()
            if key.endswith("_token") and _is_token(value)
        }
        return {**named, "eos_token": self.eos, "pad_token": self.pad}


OWN_SETTINGS = TokenizerSettings()


class Tokenizer:
    """Encodes and decodes with one vocabulary.

    Attributes:
        vocab_size: Entries that a model needs: the highest token and one.
        eos_id: The token that ends a sequence.
        pad_id: The token that fills rows up.
        settings: What it is besides its vocabulary.
        parts: A fingerprint of each of its parts, by what people call it.
        fingerprint: Of all of it.
    """

    def __init__(self, backend: Backend, settings: TokenizerSettings = OWN_SETTINGS) -> None:
        """Takes over a `tokenizers` object.

        Raises:
            DataError: It lacks one of the special tokens that the settings name.
        """
        self._backend = backend
        self.settings = settings
        self.vocab_size = max(backend.get_vocab().values(), default=-1) + 1
        self.eos_id = _require_token(backend, settings.eos)
        self.pad_id = _require_token(backend, settings.pad)
        self.parts = {
            "vocabulary": fingerprint_of(backend.to_str()),
            "special tokens": fingerprint_of(settings.eos, settings.pad),
            "chat template": fingerprint_of(settings.chat_template),
        }
        self.fingerprint = fingerprint_of(*self.parts.values())

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[Backend, TokenizerSettings]]:
        return Tokenizer, (self._backend, self.settings)

    @classmethod
    def of_bytes(
        cls, more: Sequence[str] = (), settings: TokenizerSettings = OWN_SETTINGS
    ) -> Tokenizer:
        """One token per byte, its id the byte's value; then the special tokens.

        Args:
            more: Special tokens besides those of every tokenizer made here.
            settings: What it is besides its vocabulary.
        """
        vocabulary = {letter: byte for byte, letter in enumerate(_byte_letters())}
        backend = _byte_level(models.BPE(vocab=vocabulary, merges=[]))
        add_special_tokens(backend, _own_tokens(settings, more))
        return cls(backend, settings)

    @classmethod
    def train(
        cls,
        texts: Iterator[str],
        vocab_size: int,
        more: Sequence[str] = (),
        settings: TokenizerSettings = OWN_SETTINGS,
    ) -> Tokenizer:
        """Trains a byte-level BPE; the same texts give the same tokenizer."""
        backend = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=_own_tokens(settings, more),
            initial_alphabet=_byte_letters(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend, settings)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Loads what `save` wrote, or a tokenizer that transformers saved.

        Raises:
            DataError: The folder holds no tokenizer that can be used as it is.
        """
        backend, settings = read_tokenizer_files(folder)
        return cls(backend, settings)

    def save(self, folder: Path) -> None:
        """Writes files that transformers' `AutoTokenizer.from_pretrained` reads as well."""
        folder.mkdir(parents=True, exist_ok=True)
        self._backend.save(str(folder / TOKENIZER_FILE))
        content = {
            **self.settings.others,
            "eos_token": self.settings.eos,
            "pad_token": self.settings.pad,
        }
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / SETTINGS_FILE).write_text(text, encoding="utf-8")
        if self.settings.chat_template is not None:
            (folder / CHAT_TEMPLATE_FILE).write_text(self.settings.chat_template, encoding="utf-8")

    @cached_property
    def token_bytes(self) -> NDArray[np.int32]:
        """Bytes of text that each token stands for, `[vocabulary]`; 0 for special tokens."""
        return token_lengths(self._backend, self.vocab_size)

    @cached_property
    def special_ids(self) -> NDArray[np.int64]:
        """The tokens that no text becomes, sorted."""
        return np.array(sorted(self._sealed.names_by_id), np.int64)

    @cached_property
    def _sealed(self) -> SealedVocabulary:
        settings = self.settings
        return SealedVocabulary(
            self._backend, {self.eos_id: settings.eos, self.pad_id: settings.pad}
        )

    def encode(self, text: str) -> list[int]:
        """Encodes one text; nothing in it becomes a special token."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes many texts, on all cores unless TOKENIZERS_PARALLELISM says otherwise."""
        encodings = self._sealed.plain.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def mark_special(self, text: str) -> str:
        """Writes every special token that a text spells so that `encode_marked` makes it one.

        Args:
            text: As a chat template wrote it; what `RESERVED[2]` interrupts spells none.
        """
        return self._sealed.mark(text)

    def shield(self, text: str) -> str:
        """Interrupts every special token that a text spells, so that `mark_special` leaves it."""
        return self._sealed.shield(text)

    def encode_marked(
        self, texts: Sequence[str]
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Encodes texts in which special tokens are marked.

        Returns:
            Of each text its tokens, `[tokens]`, and the characters that each of them covers,
            `[tokens, 2]`, from the first to the one behind the last.
        """
        encodings = self._sealed.marked.encode_batch(list(texts), add_special_tokens=False)
        return [
            (np.array(encoding.ids, np.int64), np.array(encoding.offsets, np.int64).reshape(-1, 2))
            for encoding in encodings
        ]

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of the tokens; broken characters become U+FFFD.

        Args:
            ids: The tokens.
            special: Whether special tokens are written out.
        """
        text: str = self._backend.decode(
            [int(token) for token in ids], skip_special_tokens=not special
        )
        return text


def read_tokenizer_files(folder: Path, eos: str | None = None) -> tuple[Backend, TokenizerSettings]:
    """Reads a tokenizer as transformers saves it; `pad` is `eos` where it has none.

    Args:
        folder: Where it lies.
        eos: The token that ends a sequence, whatever the tokenizer says.

    Raises:
        DataError: The folder holds no tokenizer that can be used as it is.
    """
    try:
        backend = Backend.from_file(str(folder / TOKENIZER_FILE))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(
            f"{folder} holds no {TOKENIZER_FILE} that can be read: {error}. If its tokenizer is "
            "in another form, write this one with transformers: "
            f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained(...)."
        ) from error
    backend.no_truncation()
    backend.no_padding()
    others = _read_settings(folder)
    own_eos, pad = (_take_token(others, name, folder) for name in ("eos_token", "pad_token"))
    eos = eos or own_eos
    template = _read_chat_template(folder, others.pop("chat_template", None))
    if eos is None:
        raise DataError(
            f"The tokenizer in {folder} names no end-of-sequence token. Set tokenizer.eos to one "
            "of its tokens."
        )
    return backend, TokenizerSettings(eos, pad or eos, template, others)


def add_special_tokens(backend: Backend, tokens: Sequence[str]) -> None:
    """Adds special tokens that the vocabulary lacks behind its end."""
    backend.add_special_tokens([AddedToken(token, special=True) for token in tokens])


def changed_settings(
    settings: TokenizerSettings, *, eos: str | None, pad: str | None, chat_template: str | None
) -> TokenizerSettings:
    """The settings with what is given in place of what they say."""
    given: dict[str, Any] = {"eos": eos, "pad": pad, "chat_template": chat_template}
    return replace(settings, **{key: value for key, value in given.items() if value is not None})


def token_text(token: str | Mapping[str, Any]) -> str:
    """The text of a token as transformers writes it: bare, or with its properties."""
    return token if isinstance(token, str) else str(token["content"])


def _is_token(value: object) -> bool:
    return isinstance(value, str) or (
        isinstance(value, dict) and isinstance(value.get("content"), str)
    )


def _take_token(settings: dict[str, Any], name: str, folder: Path) -> str | None:
    """Takes a token out of a tokenizer's settings; None if they name none."""
    value = settings.pop(name, None)
    if value is None or _is_token(value):
        return None if value is None else token_text(value)
    raise DataError(
        f"{name} of the tokenizer in {folder} is {value!r:.60}; it must be a text, or an object "
        "with its `content`. Correct it there."
    )


def _read_settings(folder: Path) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    # The older file is read first, so that the newer one has the last word.
    for name in ("special_tokens_map.json", SETTINGS_FILE):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (ValueError, RecursionError) as error:
            raise DataError(f"{folder / name} is no JSON: {error}. Restore it.") from error
        if not isinstance(found, dict):
            raise DataError(f"{folder / name} is JSON, and no object. Restore it.")
        merged |= {key: value for key, value in found.items() if value is not None}
    return merged


def _read_chat_template(folder: Path, inline: object) -> str | None:
    """The template in a file of its own, else the one in the settings."""
    file = folder / CHAT_TEMPLATE_FILE
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is not UTF-8: {error}. Restore it.") from error
    if isinstance(inline, list):
        entries = [entry for entry in inline if isinstance(entry, dict)]
        named = {str(entry.get("name")): entry.get("template") for entry in entries}
        inline = named.get("default")
    return inline if isinstance(inline, str) else None


def _own_tokens(settings: TokenizerSettings, more: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([settings.eos, settings.pad, OWN_TURN, *more]))


def _require_token(backend: Backend, token: str) -> int:
    token_id = backend.token_to_id(token)
    if token_id is None:
        raise DataError(
            f"the tokenizer has no token {token!r}, which is to end sequences or to fill rows. "
            "Set tokenizer.eos and tokenizer.pad to tokens that it has, or add it with "
            "tokenizer.special_tokens."
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
