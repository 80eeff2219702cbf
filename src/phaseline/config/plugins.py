"""Things of the user's own, named in the configuration as `module:attribute`."""

from __future__ import annotations

import importlib
from typing import Any

from phaseline.errors import ConfigurationError, Fault


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
