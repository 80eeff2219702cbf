"""Where the paths of a configuration lead: from one folder, whatever folder a command runs in.

A path is a name of what it leads to: it stands in the configuration, in the ids of documents and
in what a session keeps. Where that lies may change. So a setting stays as it was written, and
whoever opens it asks here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath

_PATTERN = frozenset("*?[")


@dataclass(frozen=True)
class Places:
    """Where to look.

    Attributes:
        folders: Where relative paths begin, the first in which one exists; behind them the
            working folder.
        moved: Paths as they are written, each with where that lies now, of a file or of a folder
            and all that is in it.
        known: Paths as the session calls them that were there when it began, so that they are no
            names on the hub.
        renamed: Absolute paths at which something was found later, each with what the session
            calls it; it need not be there any more.
        kept_model: A folder with the configuration of a pretrained model, by `model.pretrained`
            and `model.revision`.
        kept_tokenizer: A folder with a tokenizer, by its section as JSON text.
    """

    folders: tuple[Path, ...] = ()
    moved: Mapping[str, str] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    renamed: Mapping[str, str] = field(default_factory=dict)
    kept_model: Mapping[tuple[str | None, str | None], Path] = field(default_factory=dict)
    kept_tokenizer: Mapping[str, Path] = field(default_factory=dict)


_places = Places()


@contextmanager
def looking_in(places: Places) -> Iterator[None]:
    """While it lasts, paths of configurations lead where `places` say. Not for threads."""
    global _places
    before, _places = _places, places
    try:
        yield
    finally:
        _places = before


def current_places() -> Places:
    """Where paths lead now."""
    return _places


def located(text: str) -> str:
    """Where a path of the configuration leads; unchanged if that is what it says.

    Args:
        text: A path, or a pattern of paths, as it is written.
    """
    whole = os.path.expanduser(text) if text.startswith("~") else text  # noqa: PTH111 - as it is written, but for the home
    for written, now in _places.moved.items():
        rest = below(written, text)
        if rest is not None:
            return str(Path(now, rest)) if rest else now
    if os.path.isabs(whole):  # noqa: PTH117
        return whole
    root = fixed_part(whole)
    for folder in _places.folders:
        if (folder / root).exists():
            return whole if _is_working_folder(folder) else str(folder / whole)
    return whole


def place_of(text: str) -> Path:
    """The same as a path."""
    return Path(located(text))


def first_name(text: str) -> str:
    """What the session calls a path: how it was written at first."""
    absolute = str(place_of(text).absolute())
    for place, name in _places.renamed.items():
        rest = below(place, absolute)
        if rest is not None:
            return str(PurePath(name, rest)) if rest else name
    return text


def is_known(text: str) -> bool:
    """Whether a path was there when the session began, whatever became of it."""
    return text in _places.known or first_name(text) in _places.known


def fixed_part(text: str) -> str:
    """A pattern's folders before the first that is a pattern; of a path all of it."""
    parts = PurePath(text).parts
    first = next((i for i, part in enumerate(parts) if _PATTERN & set(part)), len(parts))
    if first == len(parts):
        return text
    return str(PurePath(*parts[:first]))


def below(written: str, text: str) -> str | None:
    """What a path has behind another; None if it is not the same or below it."""
    above, whole = PurePath(written).parts, PurePath(text).parts
    if whole[: len(above)] != above:
        return None
    return str(PurePath(*whole[len(above) :])) if len(whole) > len(above) else ""


def _is_working_folder(folder: Path) -> bool:
    try:
        return folder.samefile(Path.cwd())
    except OSError:
        return False
