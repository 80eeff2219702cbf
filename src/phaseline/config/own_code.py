"""The user's own modules that a configuration names, found and hashed without importing them."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import xxhash

from phaseline.config.resolved import settings_of
from phaseline.config.sections import Config

_NAMED = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):[A-Za-z_][\w.]*", re.ASCII)
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_MOST_FILES = 1000
"""A folder that holds more is not what somebody wrote for one session."""


def hash_own_code(config: Config, folder: Path) -> dict[str, str]:
    """Hashes every file of the user's own that the configured names lead to.

    What is installed as a package is told by its version and left out here. A module that one
    of them imports counts if it lies in the same folder, or in the folder one starts in.

    Args:
        config: The resolved configuration.
        folder: The folder that the command is started in.

    Returns:
        By path, relative to the folder where it lies inside: xxh3-128 of the file, hexadecimal.
    """
    waiting = sorted(set(_named_modules(config)))
    found: dict[Path, str] = {}
    seen: set[str] = set()
    while waiting and len(found) < _MOST_FILES:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for path in _own_files(name, folder):
            if path in found:
                continue
            try:
                data = path.read_bytes()
            except OSError:
                continue
            found[path] = xxhash.xxh3_128_hexdigest(data)
            waiting.extend(_imports_of(data))
    return {_shown(path, folder): digest for path, digest in sorted(found.items())}


def _named_modules(config: Config) -> Iterator[str]:
    for value in settings_of(config).values():
        match = _NAMED.fullmatch(value) if isinstance(value, str) else None
        if match is not None:
            yield match["module"].partition(".")[0]


def _own_files(name: str, folder: Path) -> Iterator[Path]:
    """The files of a top-level module; none of what comes with Python or is installed."""
    if name in sys.stdlib_module_names or name == "phaseline":
        return
    places = [folder / f"{name}.py", folder / name / "__init__.py"]
    found = [path for path in places if path.is_file()][:1] or _importable(name)
    # A package may be a plain folder, without an `__init__.py`.
    found = found or [folder / name]
    for origin in found:
        if _is_installed(origin):
            continue
        if origin.suffix == ".py" and origin.name != "__init__.py":
            yield origin
        else:
            package = origin.parent if origin.name == "__init__.py" else origin
            yield from sorted(package.rglob("*.py"))[:_MOST_FILES]


def _importable(name: str) -> list[Path]:
    """Where a top-level module would be imported from: its file, or folders. Imports nothing."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return []
    if spec is None:
        return []
    if spec.origin is None:
        return [Path(place) for place in spec.submodule_search_locations or ()]
    return [Path(spec.origin)] if spec.origin.endswith(".py") else []


def _is_installed(path: Path) -> bool:
    """Whether it lies where packages are installed: of this Python, of the system's, or the user's."""
    return not _INSTALLED.isdisjoint(path.parts) or not _INSTALLED.isdisjoint(path.resolve().parts)


def _imports_of(data: bytes) -> Iterator[str]:
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError):
        return  # its import says what is wrong with it
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]


def _shown(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
