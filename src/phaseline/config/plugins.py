"""Things of the user's own: named as `module:attribute`, or by the name that a package gave them.

A package registers a name as an entry point of one of the groups; the resolved configuration
has the `module:attribute` that it stands for, so that a session keeps what it was started with.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any, Literal

from phaseline.errors import ConfigurationError, Fault

Group = Literal["callbacks", "metrics", "models", "objectives", "optimizers", "sources"]
"""What can be registered; the group of entry points is `phaseline.<group>`."""


def find_plugin(group: Group, name: str) -> str | None:
    """The `module:attribute` that a registered name stands for. Nothing is imported."""
    found = entry_points(group=f"phaseline.{group}", name=name)
    return next((entry.value for entry in found), None)


def plugin_names(group: Group) -> list[str]:
    """Every name that is registered."""
    return sorted(entry_points(group=f"phaseline.{group}").names)


def load_attribute(name: str, *, path: str) -> Any:
    """Imports what `module:attribute` names.

    Args:
        name: As `my_package.models:build`.
        path: Where in the configuration it was named, for the message.

    Raises:
        ConfigurationError: It cannot be imported.
    """
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        fault = Fault(
            path,
            "",
            f"is {name!r}, which cannot be imported: {error}",
            "It must be as 'package.module:attribute', and importable from where you start.",
        )
        raise ConfigurationError([fault]) from error
    return found
