"""The tokenizer: that its settings go together, and that what they name is there."""

from __future__ import annotations

import errno
import json
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from phaseline.config.checks.finding import Finding
from phaseline.config.known import HUB_NAME, NUM_BYTES, OWN_EOS, OWN_PAD, OWN_TURN
from phaseline.config.places import is_known, place_of
from phaseline.config.sections import Config
from phaseline.config.tree import found_text
from phaseline.errors import UnreachableFileError

_FILE = "tokenizer.json"
_MOST_BYTES_OF_TEMPLATE = 1 << 20
"""The longest public ones have some ten thousand characters."""
# What only transformers' own templates know, and no template needs to be read without.
_MARKERS = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")


def tokenizer_is_described_once(config: Config) -> Iterator[Finding]:
    """A tokenizer is taken or trained."""
    section = config.tokenizer
    if section.pretrained is not None and section.train is not None:
        yield Finding(
            ("tokenizer", "train"),
            "is given together with `pretrained`; at most one of them may be",
            "Remove one of them.",
        )
    if section.revision is None:
        return
    is_hub = section.pretrained is not None and not _is_folder(section.pretrained)
    if not is_hub:
        yield Finding(
            ("tokenizer", "revision"),
            f"is {section.revision!r}, which has no effect without a model of the hub",
            "Remove it, or set tokenizer.pretrained to the name of a model on the hub.",
        )


def pretrained_tokenizer_can_be_read(config: Config) -> Iterator[Finding]:
    """A folder that is named holds a tokenizer; the hub is not asked."""
    name = config.tokenizer.pretrained
    if name is None:
        return
    loc = ("tokenizer", "pretrained")
    if place_of(name).is_dir():
        if not (place_of(name) / _FILE).is_file():
            yield Finding(
                loc,
                f"is {name!r}, a folder without {_FILE}",
                "Name one that transformers saved a tokenizer in: "
                "AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER).",
            )
    elif HUB_NAME.fullmatch(name) is None and not _is_folder(name):
        yield Finding(
            loc,
            f"is {name!r}, but there is no such folder, and it is no name of a model on the "
            "Hugging Face hub",
            "Correct the path; it is relative to the folder you start in.",
        )


def tokenizer_has_text_to_train_on(config: Config) -> Iterator[Finding]:
    """A tokenizer is trained on one source or on several, written in one way."""
    train = config.tokenizer.train
    if train is None:
        return
    if train.source is None and not train.sources:
        yield Finding(
            ("tokenizer", "train"),
            "names no source to train on",
            "Add for example `source: python_stdlib`.",
        )
    if train.source is not None and train.sources:
        yield Finding(
            ("tokenizer", "train", "source"),
            "is given together with `sources`, which says the same",
            "Keep one of them.",
        )
    if train.source is None and train.arguments:
        yield Finding(
            ("tokenizer", "train", "arguments"),
            "has no effect without `source`",
            "Write the arguments beside each of the `sources`, or remove them.",
        )


def vocabulary_holds_the_special_tokens(config: Config) -> Iterator[Finding]:
    """All bytes and all special tokens are in a vocabulary that is trained."""
    train = config.tokenizer.train
    if train is None:
        return
    needed = _own_vocab_size(config)
    if train.vocab_size < needed:
        yield Finding(
            ("tokenizer", "train", "vocab_size"),
            f"is {train.vocab_size}; it must be at least {needed}, one for each byte and each "
            "special token",
            f"Set it to {needed} or more, or name fewer special_tokens.",
        )


def special_tokens_are_distinct(config: Config) -> Iterator[Finding]:
    """Each special token is named once and holds something."""
    section = config.tokenizer
    for idx, token in enumerate(section.special_tokens):
        loc = ("tokenizer", "special_tokens", idx)
        if not token:
            yield Finding(loc, "is empty", "Remove it.")
        elif token in section.special_tokens[:idx]:
            yield Finding(loc, f"is {token!r}, which is in the list already", "Remove it.")


def chat_template_can_be_read(config: Config) -> Iterator[Finding]:
    """A chat template is jinja, or the path of a file that holds some."""
    setting = config.tokenizer.chat_template
    if setting is None:
        return
    loc = ("tokenizer", "chat_template")
    text, whose = setting, ""
    if "{" not in setting:
        try:
            text, whose = read_template(place_of(setting)), f" of {setting}"
        except (OSError, UnicodeDecodeError) as error:
            if is_known(setting):
                return  # the session keeps it
            UnreachableFileError.require_lasting(error, setting)
            yield Finding(
                loc,
                f"is {found_text(setting)}, a file that cannot be read: {_reason(error)}",
                "Correct the path, or write the template itself, which holds braces.",
            )
            return
    yield from _check_template(text, whose, loc)


def read_template(path: Path) -> str:
    """The chat template in a file, which has at most 1 MiB.

    Raises:
        OSError: It is no file, is too large, or cannot be read.
        UnicodeDecodeError: It is no text.
    """
    # Looked at before it is opened: a pipe without a writer would be waited for.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES_OF_TEMPLATE + 1)
    if len(data) > _MOST_BYTES_OF_TEMPLATE:
        raise OSError(errno.EFBIG, "it is larger than 1 MiB", str(path))
    return data.decode()


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _is_folder(name: str) -> bool:
    """Whether it is a folder, or was one when the session began, which keeps what was in it."""
    return place_of(name).is_dir() or is_known(name)


def _check_template(text: str, whose: str, loc: tuple[str, ...]) -> Iterator[Finding]:
    from jinja2 import Environment, TemplateSyntaxError

    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_MARKERS.sub("", text))  # noqa: S701 - only read
    except TemplateSyntaxError as error:
        yield Finding(
            loc,
            f"is no jinja template: {error.message} (line {error.lineno}{whose})",
            "Correct the template.",
        )
    except (ValueError, OverflowError, RecursionError) as error:
        yield Finding(loc, f"is no jinja template{whose}: {error}", "Correct the template.")


def vocab_size_of(config: Config) -> int | None:
    """Entries of the tokenizer; None where only reading it from the hub could tell."""
    section = config.tokenizer
    if section.pretrained is not None:
        return _vocab_size_in(place_of(section.pretrained) / _FILE, section.special_tokens)
    return _own_vocab_size(config) if section.train is None else section.train.vocab_size


def _vocab_size_in(file: Path, special_tokens: Sequence[str]) -> int | None:
    try:
        content = json.loads(file.read_bytes())
        vocabulary = content["model"]["vocab"]
        if isinstance(vocabulary, list):
            vocabulary = {entry[0]: idx for idx, entry in enumerate(vocabulary)}
        ids = {**vocabulary, **{one["content"]: one["id"] for one in content["added_tokens"]}}
        return int(max(ids.values())) + 1 + len(set(special_tokens) - ids.keys())
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None  # whoever loads it says what is wrong with it


def _own_vocab_size(config: Config) -> int:
    """One entry for each byte and each special token."""
    section = config.tokenizer
    own = {section.eos or OWN_EOS, section.pad or OWN_PAD, OWN_TURN}
    return NUM_BYTES + len(own | set(section.special_tokens))
