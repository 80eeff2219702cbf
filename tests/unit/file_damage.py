"""Ways in which a disk, a program or a person may damage a file, each as a function of its path."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]
_WRONG: tuple[object, ...] = ([["x"]], {"a": {}}, -1, 1e400, "\x1b[31m\ud800", True, None)


def _flip(seed: int) -> Damage:
    """A bit at a random place; of an empty file there is none."""

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        if content:
            chosen = random.Random(f"{seed} {path.name}")
            content[chosen.randrange(len(content))] ^= 1 << chosen.randrange(8)
            path.write_bytes(content)

    return damage


def _cut(share: float) -> Damage:
    return lambda path: os.truncate(path, int(path.stat().st_size * share))


def _to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _nest(path: Path) -> None:
    path.write_text("[" * 100_000 + "]" * 100_000)


DAMAGES: dict[str, Damage] = {
    "flip-1": _flip(1),
    "flip-2": _flip(2),
    "half": _cut(0.5),
    "empty": _cut(0.0),
    "removed": Path.unlink,
    "folder": _to_folder,
    "loop": _link_to_itself,
    "nested": _nest,
}
"""Each works on any file."""


def link_outside(path: Path, outside: Path) -> None:
    """Puts a link in the place of a file, to a copy of it that lies outside."""
    target = outside / path.name
    shutil.copy(path, target)
    path.unlink()
    path.symlink_to(target)


def wrong_fields(path: Path) -> Iterator[tuple[str, bytes]]:
    """Contents of a JSON file, or of its first line, with one field each of a wrong type.

    Fields at every depth; of a list its first member stands for all, and so does the first
    of a mapping whose members have the same fields.

    Yields:
        The field, and the whole file's content.
    """
    first, _, rest = path.read_bytes().partition(b"\n")
    is_lines = path.suffix == ".jsonl"
    try:
        content = json.loads(first if is_lines else path.read_bytes())
    except ValueError:
        return
    for number, place in enumerate(_places(content)):
        wrong = _WRONG[number % len(_WRONG)]
        data = json.dumps(_replaced(content, place, wrong)).encode()
        yield ".".join(map(str, place)), data + b"\n" + rest if is_lines else data


def _places(content: Any) -> Iterator[tuple[str | int, ...]]:
    """The keys and indexes that lead to each field."""
    members: list[tuple[str | int, Any]] = []
    if isinstance(content, dict):
        members = list(content.items())
        if all(isinstance(value, dict) for value in content.values()):
            # The first member of each set of fields.
            alike = {frozenset(value): (key, value) for key, value in reversed(members)}
            members = list(alike.values())
    elif isinstance(content, list):
        members = [(0, content[0])] if content else []
    for key, value in members:
        yield (key,)
        for below in _places(value):
            yield (key, *below)


def _replaced(content: Any, place: tuple[str | int, ...], value: object) -> object:
    if not place:
        return value
    changed = content.copy()
    changed[place[0]] = _replaced(content[place[0]], place[1:], value)
    return changed
