"""What one `--accept-change` names: a setting, a section, or a setting with its new value."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from phaseline.config.changes import Change
from phaseline.config.resolved import settings_of
from phaseline.config.sections import Config
from phaseline.config.tree import path_text

_PHASE = re.compile(r"phases\[(?P<name>[^\]]*)\]")


@dataclass(frozen=True)
class AcceptedChange:
    """Changes that somebody accepts.

    Attributes:
        text: As it was given.
        path: The setting or section, phases by their numbers.
        value: The only new value that is accepted, as JSON; None: whatever it is.
    """

    text: str
    path: str
    value: str | None

    @classmethod
    def parse(cls, text: str, config: Config) -> AcceptedChange:
        """Reads `PATH` or `PATH=VALUE`; phases may be named.

        Args:
            text: As `phases[pretrain].optimizer` or `phases[0].optimizer.lr=0.002`.
            config: What is asked for now, which says the phases' places.
        """
        path, separator, value = text.partition("=")
        return cls(text, _with_indexes(path.strip(), config), value if separator else None)

    @classmethod
    def of(cls, change: Change) -> AcceptedChange:
        """That accepts exactly one change."""
        return cls(f"{change.path}={change.new}", change.path, change.new)

    def names(self, path: str) -> bool:
        """Whether a setting is meant, whatever its value."""
        return path == self.path or path.startswith((f"{self.path}.", f"{self.path}["))

    def covers(self, change: Change) -> bool:
        """Whether a change is accepted by this."""
        if self.value is None:
            return self.names(change.path)
        return self.path == change.path and _is_same(self.value, change.new)

    def is_of(self, *configs: Config) -> bool:
        """Whether one of the configurations has the setting."""
        return any(self.path == path_text(loc) for config in configs for loc in settings_of(config))


def _with_indexes(key: str, config: Config) -> str:
    """`phases[pretrain].optimizer` as `phases[0].optimizer`."""
    match = _PHASE.match(key)
    names = [phase.name for phase in config.phases]
    if match is None or match["name"] not in names:
        return key
    return f"phases[{names.index(match['name'])}]{key[match.end() :]}"


def _is_same(given: str, value: str) -> bool:
    """Whether two texts are one value: 2e-3 is 0.002."""
    try:
        return given == value or bool(json.loads(given) == json.loads(value))
    except ValueError:
        return False
