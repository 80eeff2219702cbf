"""Builds a source from its name in the configuration."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, cast, get_args

from phaseline.config.known import Shape
from phaseline.config.plugins import load_attribute
from phaseline.data.sources.digits import Digits
from phaseline.data.sources.files import files, text_files
from phaseline.data.sources.filters import FilteredSource
from phaseline.data.sources.hub_dataset import hub_dataset
from phaseline.data.sources.python_stdlib import PythonStdlib
from phaseline.data.sources.python_stdlib_functions import PythonStdlibFunctions
from phaseline.data.sources.python_stdlib_preferences import PythonStdlibPreferences
from phaseline.data.sources.saved_dataset import saved_dataset
from phaseline.data.sources.token_files import TokenFiles
from phaseline.data.sources.torch_source import TorchSource
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from phaseline.config.data_section import SourceSection
    from phaseline.data.sources.protocol import Source

BUILT_IN: Mapping[str, Callable[..., Source]] = {
    "python_stdlib": PythonStdlib,
    "python_stdlib_functions": PythonStdlibFunctions,
    "python_stdlib_preferences": PythonStdlibPreferences,
    "torch_source": TorchSource,
    "text_files": text_files,
    "files": files,
    "token_files": TokenFiles,
    "hub_dataset": hub_dataset,
    "saved_dataset": saved_dataset,
    "digits": Digits,
}


def source_key(section: SourceSection) -> str:
    """What the configuration says of a source, its weight aside, as one text."""
    said = section.model_dump(mode="json", include={"source", "arguments", "filters"})
    return json.dumps(said, sort_keys=True)


def build_filtered_source(section: SourceSection) -> Source:
    """Builds the source of a section, with its filters.

    Raises:
        ConfigurationError: What is named cannot be imported.
        DataError: The source or a filter cannot be used.
    """
    source = build_source(section.source, section.arguments)
    return FilteredSource(source, section.filters) if section.filters.is_given else source


def build_source(name: str, arguments: Mapping[str, Any]) -> Source:
    """Builds the source that `name` stands for.

    Args:
        name: A built-in name, or `module:attribute` of a callable that returns a source.
        arguments: Keyword arguments of the source.

    Raises:
        ConfigurationError: What is named cannot be imported.
        DataError: The name is unknown, the arguments do not fit, or what was built is no source.
    """
    factory = _load_factory(name) if ":" in name else _find_built_in(name)
    try:
        source = factory(**arguments)
    except TypeError as error:
        raise DataError(
            f"data source {name!r} does not take the arguments {dict(arguments)!r}: {error}. "
            "Correct `arguments` of the source in the configuration."
        ) from error
    _require_source(name, source)
    return cast("Source", source)


def check_source(source: Source) -> None:
    """Makes the first samples, if the source can tell these from the rest.

    Raises:
        DataError: They cannot be used.
    """
    check = getattr(source, "check", None)
    if check is not None:
        check()


def describe_source(source: Source) -> str:
    """What a source says of itself, in brackets; empty if that is nothing."""
    description = getattr(source, "description", "")
    return f" ({description})" if description else ""


def _find_built_in(name: str) -> Callable[..., object]:
    factory = BUILT_IN.get(name)
    if factory is not None:
        return factory
    near = get_close_matches(name, BUILT_IN, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "Or name your own as `module:attribute`."
    raise DataError(
        f"data source {name!r} is unknown; built in are {', '.join(sorted(BUILT_IN))}. {hint}"
    )


def _load_factory(name: str) -> Callable[..., object]:
    factory = load_attribute(name, path="data source")
    if not callable(factory):
        raise DataError(
            f"data source {name!r} is a {type(factory).__name__}; it must be a callable that "
            "takes the source's arguments and returns the source."
        )
    return cast("Callable[..., object]", factory)


def _require_source(name: str, source: object) -> None:
    shape = getattr(source, "shape", None)
    if shape not in get_args(Shape):
        raise DataError(
            f"data source {name!r} has the shape {shape!r}; `shape` must be one of "
            f"{', '.join(get_args(Shape))}."
        )
    for method in ("fingerprint", "samples"):
        if not callable(getattr(source, method, None)):
            raise DataError(
                f"data source {name!r} of shape {shape!r} has no method `{method}`; "
                "phaseline.data.sources.protocol says what a source must have."
            )
