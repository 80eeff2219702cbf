"""Builds the configured tokenizer: from a folder or the hub, trained here, or of bytes."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from phaseline.config.checks.tokenizers import read_template
from phaseline.config.hub import is_outage
from phaseline.config.known import HUB_NAME
from phaseline.config.known_sources import paths_of_source
from phaseline.config.places import current_places, fixed_part, is_known, located, place_of
from phaseline.data.cache import Cache, Proceed, Report, always_proceed
from phaseline.data.fingerprints import fingerprint_of
from phaseline.data.sources import Chat, Document, Pair, Preference, Source, build_source
from phaseline.data.tokenizer import (
    CHAT_TEMPLATE_FILE,
    OWN_SETTINGS,
    SETTINGS_FILE,
    TOKENIZER_FILE,
    Tokenizer,
    TokenizerSettings,
    add_special_tokens,
    changed_settings,
    read_tokenizer_files,
)
from phaseline.errors import DataError, HubOutageError, UnreachableFileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from phaseline.config.data_section import TokenizerSection
    from phaseline.data.sources import Sample
    from phaseline.data.sources.protocol import Message

# Part of the cache key of a trained tokenizer; raise it when training changes.
_TRAINING_VERSION = 2

_KIND = "tokenizers"
_FILES = (TOKENIZER_FILE, SETTINGS_FILE, CHAT_TEMPLATE_FILE, "special_tokens_map.json")


def build_tokenizer(
    section: TokenizerSection,
    cache: Cache,
    report: Report = lambda _: None,
    proceed: Proceed = always_proceed,
) -> Tokenizer:
    """Builds the configured tokenizer, training or fetching it if it is not in the cache.

    Args:
        section: The tokenizer's section.
        cache: Where one is kept that was trained or fetched.
        report: Told what is done.
        proceed: Called before each text; what it raises ends the training.

    Raises:
        DataError: It cannot be read or fetched, or lacks a token that the section names.
    """
    kept = current_places().kept_tokenizer.get(section_text(section))
    if kept is not None and not _is_there(section, cache):
        return Tokenizer.load(kept)
    template = _chat_template(section.chat_template)
    given = {"eos": section.eos, "pad": section.pad, "chat_template": template}
    if section.pretrained is not None:
        folder = _find_pretrained(section.pretrained, section.revision, cache, report)
        backend, settings = read_tokenizer_files(folder, section.eos)
        add_special_tokens(backend, section.special_tokens)
        return Tokenizer(backend, changed_settings(settings, **given))
    settings = changed_settings(OWN_SETTINGS, **given)
    if section.train is None:
        return Tokenizer.of_bytes(section.special_tokens, settings)
    return _trained(section, settings, cache, report, proceed)


def section_text(section: TokenizerSection) -> str:
    """What the configuration says of a tokenizer, as one text."""
    return json.dumps(section.model_dump(mode="json"), sort_keys=True)


def _is_there(section: TokenizerSection, cache: Cache) -> bool:
    """Whether what a tokenizer is made of is where the configuration says. No network."""
    template = section.chat_template
    if template is not None and "{" not in template and not place_of(template).is_file():
        return False
    if section.train is not None:
        return all(
            Path(located(fixed_part(path))).exists()
            for text in section.train.texts
            for path in paths_of_source(text.source, text.arguments)
        )
    name = section.pretrained
    if name is None or place_of(name).is_dir():
        return True
    return not is_known(name) and cache.find(_KIND, _hub_key(section)) is not None


def _hub_key(section: TokenizerSection) -> str:
    return fingerprint_of("hub", section.pretrained, section.revision)


def _trained(
    section: TokenizerSection,
    settings: TokenizerSettings,
    cache: Cache,
    report: Report,
    proceed: Proceed,
) -> Tokenizer:
    train = section.train
    assert train is not None
    sources = [build_source(text.source, text.arguments) for text in train.texts]
    fingerprint = fingerprint_of(
        _TRAINING_VERSION,
        train.vocab_size,
        section.special_tokens,
        sorted(asdict(settings).items()),
        [source.fingerprint() for source in sources],
    )

    def build(folder: Path) -> None:
        names = ", ".join(text.source for text in train.texts)
        report(f"training a tokenizer of {train.vocab_size} entries on {names}")
        texts = _texts(sources, proceed)
        tokenizer = Tokenizer.train(texts, train.vocab_size, section.special_tokens, settings)
        tokenizer.save(folder)

    return Tokenizer.load(cache.obtain(_KIND, fingerprint, build, report, proceed))


def _texts(sources: Sequence[Source], proceed: Proceed) -> Iterator[str]:
    for source in sources:
        for sample in source.samples():
            proceed()
            yield from _texts_of(sample)


def _texts_of(sample: Sample) -> Iterator[str]:
    if isinstance(sample, Document):
        yield sample.text
    elif isinstance(sample, Pair):
        yield sample.prompt + sample.completion
    elif isinstance(sample, Chat):
        yield from _texts_of_turns(sample.messages)
    elif isinstance(sample, Preference):
        for part in (sample.prompt, sample.chosen, sample.rejected):
            yield from [part] if isinstance(part, str) else _texts_of_turns(part)


def _texts_of_turns(messages: Sequence[Message]) -> Iterator[str]:
    contents = (message.get("content") for message in messages)
    yield from (content for content in contents if isinstance(content, str))


def _chat_template(setting: str | None) -> str | None:
    """A template stands for itself; anything without a brace is the path of a file."""
    if setting is None or "{" in setting:
        return setting
    try:
        return read_template(place_of(setting))
    except (OSError, UnicodeDecodeError) as error:
        UnreachableFileError.require_lasting(error, setting)
        raise DataError(
            f"tokenizer.chat_template is {setting!r}, a file that cannot be read: {error}. "
            "Correct the path, or write the template itself."
        ) from error


def _find_pretrained(name: str, revision: str | None, cache: Cache, report: Report) -> Path:
    """The folder of a pretrained tokenizer: the user's own, or a copy in the cache."""
    if place_of(name).is_dir():
        return place_of(name)
    if HUB_NAME.fullmatch(name) is None or is_known(name):
        raise DataError(
            f"tokenizer.pretrained is {name!r}: there is no such folder below {Path.cwd()}, and "
            "it is no name of a model on the Hugging Face hub. Correct the path."
        )

    def build(folder: Path) -> None:
        snapshot = _find_on_hub(name, revision, report)
        for file in _FILES:
            if (snapshot / file).is_file():
                shutil.copyfile(snapshot / file, folder / file)
        if not (folder / TOKENIZER_FILE).is_file():
            raise DataError(
                f"The model {name!r} of the Hugging Face hub has no {TOKENIZER_FILE}. Write one "
                f"with transformers: AutoTokenizer.from_pretrained({name!r}).save_pretrained(...), "
                "and set tokenizer.pretrained to that folder."
            )

    return cache.obtain(_KIND, fingerprint_of("hub", name, revision), build, report)


def _find_on_hub(name: str, revision: str | None, report: Report) -> Path:
    """Looks on this machine before it asks the network."""
    from huggingface_hub import snapshot_download

    patterns = list(_FILES)
    try:
        local = snapshot_download(
            name, revision=revision, allow_patterns=patterns, local_files_only=True
        )
        if (Path(local) / TOKENIZER_FILE).is_file():
            return Path(local)
    except Exception:  # noqa: BLE001, S110 - not here, for whatever reason: ask the network
        pass
    report(f"fetching the tokenizer {name} from the Hugging Face hub")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:
        kind = HubOutageError if is_outage(error) else DataError
        raise kind(
            f"tokenizer.pretrained is {name!r}, which is neither a folder nor on this machine, "
            f"and cannot be fetched from the Hugging Face hub: {_first_line(error)}. On a machine "
            "with a network run `phaseline prepare` with the same cache, or name a folder that "
            "transformers saved the tokenizer in."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
