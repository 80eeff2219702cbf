"""Texts that are paths, or may be: what no system takes as one is refused when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from phaseline.config.tree import found_text

_MOST_BYTES = 3500
"""Systems take 4,095; what lies in a session's directory has a path as well."""
_MOST_BYTES_OF_NAME = 255


def require_path(value: str) -> str:
    """Raises ValueError if a text can be no path, which looking for it would raise much later."""
    longest = max(len(name.encode()) for name in value.split("/"))
    if longest > _MOST_BYTES_OF_NAME or len(value.encode()) > _MOST_BYTES:
        raise ValueError(
            f"is {found_text(value)}; it must be a path of at most {_MOST_BYTES} bytes, each name "
            f"of at most {_MOST_BYTES_OF_NAME}"
        )
    if value.startswith("~"):
        try:
            Path(value).expanduser()
        except RuntimeError:
            raise ValueError(
                f"is {found_text(value)}, but there is no user {value.split('/')[0][1:]!r} here; "
                "it must be a path"
            ) from None
    return value


PathText = Annotated[str, AfterValidator(require_path)]
