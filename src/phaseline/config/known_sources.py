"""The data sources that are built in: what each takes, and what its samples are.

Kept here as data, so that a session file can be checked without importing what reads data.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from phaseline.config.known import Argument, Shape, choice, member_of

ROLES: Mapping[Shape, tuple[str, ...]] = {
    "text": ("text",),
    "pairs": ("prompt", "input", "completion", "document"),
    "chats": ("messages", "tools", "document"),
    "preferences": ("prompt", "chosen", "rejected", "document"),
    "labelled": ("label", "image", "features", "text", "document"),
}
"""What a column may be to the samples of each shape, besides their `id`."""

SHAPE_WORDS: Mapping[Shape, str] = {
    "text": "text",
    "pairs": "pairs of prompt and completion",
    "chats": "chats",
    "preferences": "prompts with a chosen and a rejected answer",
    "labelled": "samples with a label",
}
"""Each shape as messages call it."""

IMAGE_ARGUMENTS = ("resize", "channels")
LABEL_ARGUMENTS = ("classes", *IMAGE_ARGUMENTS)

# Roles that no other shape has; the label comes first, because what is labelled may be a text.
_TELLING_ROLES: tuple[tuple[str, Shape], ...] = (
    ("label", "labelled"),
    ("image", "labelled"),
    ("features", "labelled"),
    ("chosen", "preferences"),
    ("rejected", "preferences"),
    ("messages", "chats"),
    ("tools", "chats"),
    ("completion", "pairs"),
    ("input", "pairs"),
    ("text", "text"),
)


@dataclass(frozen=True)
class BuiltInSource:
    """A data source that is built in.

    Attributes:
        shape: What its samples are; None if that depends on its arguments.
        arguments: What it takes.
        has_text: Whether its samples hold text, so that characters can be counted.
        package: What must be installed besides: a module, and the extra that brings it.
        classes: Of its labels; empty if its arguments say them.
    """

    shape: Shape | None
    arguments: Mapping[str, Argument]
    has_text: bool = True
    package: tuple[str, str] | None = None
    classes: tuple[str, ...] = ()


def shape_of_roles(roles: Iterable[str]) -> Shape | None:
    """The shape that samples with these columns have; None if that is still open."""
    given = set(roles)
    return next((shape for role, shape in _TELLING_ROLES if role in given), None)


def known_shape(name: str, arguments: Mapping[str, object]) -> Shape | None:
    """What the samples of a source are, as far as the configuration says it."""
    source = SOURCES.get(name)
    if source is None or source.shape is not None:
        return None if source is None else source.shape
    if arguments.get("format") in ("text", "lines"):
        return "text"
    shape, columns = arguments.get("shape"), arguments.get("columns")
    if shape in get_args(Shape):
        return cast("Shape", shape)
    return shape_of_roles(columns) if isinstance(columns, Mapping) else None


def holds_numbers(name: str, arguments: Mapping[str, object]) -> bool | None:
    """Whether labelled samples of a source are images or features, not text; None if unknown."""
    source = SOURCES.get(name)
    if source is not None and not source.has_text:
        return True
    columns = arguments.get("columns")
    if source is None or not isinstance(columns, Mapping):
        return None
    if {"image", "features"} & columns.keys():
        return True
    return False if "text" in columns else None


_MOST = 2**31 - 1
"""Of tokens, and of their number in a document."""

_MOST_PIXELS = 16_384
"""Of a side of an image."""
_PATHS = {"files": "paths", "text_files": "paths", "token_files": "paths", "saved_dataset": "path"}
"""Of built-in sources, the argument that says where they lie."""


def paths_of_source(name: str, arguments: Mapping[str, object]) -> list[str]:
    """The paths and patterns that a built-in source reads; of others nothing is known."""
    found = arguments.get(_PATHS.get(name, ""), ())
    every = [found] if isinstance(found, str) else found
    return [path for path in every if isinstance(path, str)] if isinstance(every, Iterable) else []


def _is_size(value: object) -> bool:
    return _is_whole(value) and value != 0


def _is_token(value: object) -> bool:
    return _is_whole(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _are_texts(value: object) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_text, value))


def _are_stdlib_names(value: object) -> bool:
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(isinstance(item, str) and item in sys.stdlib_module_names for item in value)


def _are_columns(value: object) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(
        _is_text(column) or (role == "features" and _are_texts(column))
        for role, column in value.items()
    )


def _is_image_size(value: object) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return False
    return all(_is_size(side) and side <= _MOST_PIXELS for side in value)


_PACKAGES = Argument(
    "a list of modules and packages of Python's standard library",
    _are_stdlib_names,
    "[json, email]",
)


def _paths(example: str) -> Argument:
    return Argument("a list of paths, folders or patterns", _are_texts, example, required=True)


_ON_ERROR = {"on_error": choice("stop", "skip")}
# What every source takes whose samples are made of rows with named columns.
_OF_ROWS: Mapping[str, Argument] = {
    "columns": Argument(
        "a section of roles, each with the name of a column", _are_columns, "{text: body}"
    ),
    "shape": choice("auto", *get_args(Shape)),
    **_ON_ERROR,
    "classes": Argument("a list of the labels' names", _are_texts, "[cat, dog]"),
    "resize": Argument(
        f"a list of two sizes, height and width, of at most {_MOST_PIXELS}",
        _is_image_size,
        "[32, 32]",
    ),
    "channels": Argument("1 or 3", member_of((1, 3)), "3"),
}

PreferenceKind = Literal["other", "renamed", "truncated"]
"""What is wrong with a rejected function body of `python_stdlib_preferences`."""


def _are_kinds(value: object) -> bool:
    return _are_texts(value) and set(cast("list[str]", value)) <= set(get_args(PreferenceKind))


SOURCES: Mapping[str, BuiltInSource] = {
    "python_stdlib": BuiltInSource("text", {"packages": _PACKAGES}),
    "python_stdlib_functions": BuiltInSource("pairs", {"packages": _PACKAGES}),
    "python_stdlib_preferences": BuiltInSource(
        "preferences",
        {
            "packages": _PACKAGES,
            "kinds": Argument(
                f"a list of {', '.join(get_args(PreferenceKind))}", _are_kinds, "[other, renamed]"
            ),
        },
    ),
    "torch_source": BuiltInSource(
        "text",
        {"packages": Argument("a list of torch's subpackages", _are_texts, "[nn, optim]")},
    ),
    "text_files": BuiltInSource("text", {"paths": _paths("['corpus/**/*.txt']"), **_ON_ERROR}),
    "files": BuiltInSource(
        None,
        {
            "paths": _paths("['data/*.jsonl']"),
            "format": choice(
                "auto", "text", "lines", "jsonl", "json", "csv", "tsv", "parquet", "arrow"
            ),
            "longest_line_mib": Argument("a number of MiB, at least 1", _is_size, "64"),
            **_OF_ROWS,
        },
    ),
    "token_files": BuiltInSource(
        "text",
        {
            "paths": _paths("['tokens/*.npy']"),
            "dtype": choice("uint16", "uint32", "int32", "int64"),
            "end_of_text": Argument(
                f"a token, a whole number of at least 0 and at most {_MOST}", _is_token, "50256"
            ),
            "document_length": Argument(
                f"a number of tokens, at least 1 and at most {_MOST}", _is_size, "1024"
            ),
            **_ON_ERROR,
        },
        has_text=False,
    ),
    "hub_dataset": BuiltInSource(
        None,
        {
            "name": Argument("text", _is_text, "roneneldan/TinyStories", required=True),
            "subset": Argument("text", _is_text, "wikitext-2-raw-v1"),
            "split": Argument("text", _is_text, "train"),
            "revision": Argument("text", _is_text, "main"),
            **_OF_ROWS,
        },
    ),
    "saved_dataset": BuiltInSource(
        None,
        {
            "path": Argument("text", _is_text, "data/stories", required=True),
            "split": Argument("text", _is_text, "train"),
            **_OF_ROWS,
        },
    ),
    "digits": BuiltInSource(
        "labelled",
        {},
        has_text=False,
        package=("sklearn", "digits"),
        classes=tuple("0123456789"),
    ),
}
"""Data sources."""
