"""Builds a source from its name in the configuration."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, cast, get_args

from phaseline.config.known import Shape
from phaseline.config.plugins import load_attribute
from phaseline.data.sources.python_stdlib import PythonStdlib
from phaseline.data.sources.python_stdlib_functions import PythonStdlibFunctions
from phaseline.data.sources.text_files import TextFiles
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from phaseline.data.sources.protocol import Source

BUILT_IN: Mapping[str, Callable[..., Source]] = {
    "python_stdlib": PythonStdlib,
    "python_stdlib_functions": PythonStdlibFunctions,
    "text_files": TextFiles,
}


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
