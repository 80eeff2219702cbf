"""Things of the user's own: named as `module:attribute`, or by the name that a package gave them.

A package registers a name as an entry point of one of the groups; the resolved configuration
has the `module:attribute` that it stands for, so that a session keeps what it was started with.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, get_args

from phaseline.errors import ConfigurationError, Fault, UsageError

Group = Literal["callbacks", "metrics", "models", "objectives", "optimizers", "sources"]
"""What can be registered; the group of entry points is `phaseline.<group>`."""


_untrusted: ContextVar[str] = ContextVar("untrusted", default="")
"""The file whose names of code are not believed; empty: every name is the user's own."""


class UntrustedCodeError(UsageError):
    """A session's directory names code that the user did not ask to be run."""


@contextmanager
def code_named_by(file: Path, *, is_trusted: bool, folders: Sequence[Path] = ()) -> Iterator[None]:
    """While it lasts, names of code come from a session's directory, and not from the user.

    Only what installed packages have registered is run then, unless the user trusts the session.

    Args:
        file: The session's configuration, for the message.
        is_trusted: Whether the user says that its code may run.
        folders: Where its code was found when the session was started; used if it is trusted.
    """
    token = _untrusted.set("" if is_trusted else str(file))
    try:
        if is_trusted:
            _import_from(folders)
        yield
    finally:
        _untrusted.reset(token)


def names_are_untrusted() -> bool:
    """Whether what a configuration names is a session's and not the user's own."""
    return bool(_untrusted.get())


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

    Modules are also found in the working folder, whichever way the command was started.

    Raises:
        ConfigurationError: It cannot be imported.
        UntrustedCodeError: It is named by a session that the user did not say to trust.
    """
    _require_trusted(name, path)
    _import_from([Path.cwd()])
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


def _require_trusted(name: str, path: str) -> None:
    file = _untrusted.get()
    if not file or _is_registered(name):
        return
    raise UntrustedCodeError(
        f"{path} is {name!r} in {file}: code that would run now, named by the session and not by "
        "you. If you started the session, or have read that code, add --trust-code."
    )


def _is_registered(name: str) -> bool:
    """Whether an installed package has registered exactly this."""
    return any(
        entry.value == name
        for group in get_args(Group)
        for entry in entry_points(group=f"phaseline.{group}")
    )


def _import_from(folders: Sequence[Path]) -> None:
    """Lets modules be found in folders, after everything that is installed."""
    for folder in folders:
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
