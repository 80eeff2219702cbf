"""The resolved configuration: written down, read back, named by a fingerprint."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from phaseline.config.bounded_yaml import MAX_RESOLVED_VALUES
from phaseline.config.sections import Config
from phaseline.config.tree import Loc, path_text
from phaseline.config.upgrades import (
    FORMAT,
    SessionFormatError,
    require_readable,
    upgraded,
)
from phaseline.config.yaml_reading import read_text

# Neither changes a number that is trained or recorded.
_SAFE_ANYWHERE = frozenset(
    {"preparation", "tracking", "checkpoint", "resilience", "cluster", "export", "profile"}
)
_SAFE_OF_DATA = frozenset({("num_workers",), ("prefetch",)})
_SAFE_OF_SESSION = frozenset({"notes", "root"})
_FORMAT_KEY = "format"


def to_yaml(config: Config) -> str:
    """Writes every setting, in the order of the schema, so that `from_yaml` reads the same."""
    writer: Any = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False
    writer.width = 2**20
    writer.allow_unicode = True
    buffer = io.StringIO()
    writer.dump({_FORMAT_KEY: FORMAT, **config.model_dump(mode="json")}, buffer)
    return buffer.getvalue()


def from_yaml(text: str) -> Config:
    """Reads what `to_yaml` wrote, in this version or in an earlier one.

    Raises:
        ConfigurationError: It is no YAML.
        SessionFormatError: It is no resolved configuration that this version can read.
    """
    root = read_text(text, lambda line: f"config.yaml:{line}", most_values=MAX_RESOLVED_VALUES)
    settings = root.plain() if root is not None else None
    if isinstance(settings, dict):
        found = require_readable(settings.pop(_FORMAT_KEY, None), Path("config.yaml"))
        settings = upgraded(settings, found)
    try:
        return Config.model_validate_json(json.dumps(settings), strict=True)
    except ValueError as error:
        raise SessionFormatError(
            f"config.yaml of the session is no configuration that this version can read: {error}. "
            "It was edited, or written by another version: start a new session."
        ) from error


def fingerprint(config: Config) -> str:
    """Names what determines the numbers: equal for configurations that train the same."""
    leaves = {
        path_text(loc): value
        for loc, value in settings_of(config).items()
        # The name decides where the session lies, not what it trains.
        if not changes_no_number(loc) and loc != ("session", "name")
    }
    canonical = json.dumps(leaves, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def settings_of(config: Config) -> dict[Loc, Any]:
    """Every setting with its path, in the order of the schema."""
    return dict(_leaves(config.model_dump(mode="json")))


def with_values(config: Config, values: Iterable[tuple[Loc, Any]]) -> Config:
    """The configuration with other values of some settings that it has, each with its path."""
    plain: Any = config.model_dump(mode="json")
    for loc, value in values:
        section = plain
        for key in loc[:-1]:
            section = section[key]
        section[loc[-1]] = value
    return Config.model_validate_json(json.dumps(plain), strict=True)


def changes_no_number(loc: Loc) -> bool:
    """Whether a setting is read by nothing that trains or measures."""
    if loc[0] == "session":
        return loc[1] in _SAFE_OF_SESSION
    section = loc[2] if loc[0] == "phases" and len(loc) > 2 else loc[0]
    if section == "data" and loc[3:4] in _SAFE_OF_DATA:
        return True
    if section == "evaluate" and loc[3:4] == ("samples",):
        return True  # trains nothing, and draws from generators of its own
    return section in _SAFE_ANYWHERE


def _leaves(value: Any, loc: Loc = ()) -> Iterator[tuple[Loc, Any]]:
    """Every setting with its path; an empty mapping or list is one itself."""
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _leaves(below, (*loc, key))
    elif isinstance(value, list) and value:
        for idx, below in enumerate(value):
            yield from _leaves(below, (*loc, idx))
    else:
        yield loc, value
