"""YAML as a graph of nodes, within the bounds that a session file keeps."""

from __future__ import annotations

from functools import partial
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.nodes import Node

MAX_FILE_BYTES = 2**20
"""Size of a session file, bytes. One of a thousand phases has a tenth of it."""

MAX_VALUES = 30_000
"""Sections, lists and values of a session file, each alias counted wherever it stands."""

MAX_RESOLVED_VALUES = 1_000_000
"""Those of a resolved configuration, which says the defaults of every phase."""

MAX_DEPTH = 50
"""Sections and lists around a value. Sessions have about ten."""

MAX_TEXT = 100_000
"""Characters of one text. The longest are chat templates, of some ten thousand."""


MAX_KEY = 200
"""Characters of a key."""


class BoundError(Exception):
    """A document goes beyond a bound.

    Attributes:
        line: Where, counted from 1.
    """

    def __init__(self, line: int) -> None:
        self.line = line
        super().__init__(line)


class NestingError(BoundError):
    """Sections and lists lie deeper in each other than `MAX_DEPTH`."""


def compose(text: str, most_values: int) -> Node | None:
    """The root of a YAML document, as it is written; None if there is nothing but comments.

    Args:
        text: The document.
        most_values: Sections, lists and values that it may have.

    Raises:
        NestingError: It is deeper than `MAX_DEPTH`.
        BoundError: It has more values.
        YAMLError: It is no YAML.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = partial(_BoundedComposer, most_values)  # type: ignore[assignment]  # a factory
    root: Node | None = yaml.compose(text)
    return root


class _BoundedComposer(Composer):
    """Composes by recursion, as its base does, but not without an end."""

    def __init__(self, most_values: int, loader: Any = None) -> None:
        super().__init__(loader=loader)
        self._depth = 0
        self._num_left = most_values
        self.warn_double_anchors = False

    def compose_node(self, parent: Any, index: Any) -> Any:
        # A scalar may lie one deeper than the deepest list.
        if self._depth > MAX_DEPTH:
            raise NestingError(self.parser.peek_event().start_mark.line + 1)
        if self._num_left == 0:
            raise BoundError(self.parser.peek_event().start_mark.line + 1)
        self._num_left -= 1
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1
