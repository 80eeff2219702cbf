"""The session file as a tree of values, each with the place it was written at."""

from __future__ import annotations

from dataclasses import dataclass

_LINE_BREAKS = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
Scalar = str | int | float | bool | None
Loc = tuple[str | int, ...]
"""Keys and indexes from the root, as `("phases", 1, "optimizer", "lr")`."""


@dataclass(frozen=True)
class Node:
    """One value of the session.

    Attributes:
        value: A mapping or list of nodes, or a scalar.
        location: File and line of its key, as `configs/a.yaml:31`, or the override's text.
        origin: The path it was written at, before `defaults` were merged into the phases.
    """

    value: dict[str, Node] | list[Node] | Scalar
    location: str
    origin: Loc

    @property
    def mapping(self) -> dict[str, Node] | None:
        """The members by key; None if this is no mapping."""
        return self.value if isinstance(self.value, dict) else None

    @property
    def items(self) -> list[Node] | None:
        """The members in order; None if this is no list."""
        return self.value if isinstance(self.value, list) else None

    def child(self, key: str | int) -> Node | None:
        """The member at a key or index; None if there is none."""
        if isinstance(self.value, dict) and isinstance(key, str):
            return self.value.get(key)
        if isinstance(self.value, list) and isinstance(key, int) and key < len(self.value):
            return self.value[key]
        return None

    def find(self, loc: Loc) -> Node | None:
        """The node at a path; None if nothing was written there."""
        found: Node | None = self
        for key in loc:
            found = found.child(key) if found is not None else None
        return found

    def nearest(self, loc: Loc) -> Node:
        """The node at a path, or else the deepest section above it that was written."""
        node = self
        for key in loc:
            below = node.child(key)
            if below is None:
                break
            node = below
        return node

    def origin_of(self, loc: Loc) -> Loc:
        """Where a path was written, or would have been if it is missing."""
        node, depth = self, 0
        for key in loc:
            below = node.child(key)
            if below is None:
                break
            node, depth = below, depth + 1
        return (*node.origin, *loc[depth:])

    def plain(self) -> object:
        """The value without places: dictionaries, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def path_text(loc: Loc) -> str:
    """`phases[1].optimizer.lr` for `("phases", 1, "optimizer", "lr")`."""
    text = ""
    for key in loc:
        name = f"[{key}]" if isinstance(key, int) else one_line(key)
        text += f".{name}" if text and isinstance(key, str) else name
    return text


def one_line(text: str) -> str:
    """A text with its line breaks spelt out: a message has one fault a line."""
    return "".join(repr(char)[1:-1] if char in _LINE_BREAKS else char for char in text)


def found_text(value: object) -> str:
    """A found value as a message shows it: as YAML would, and not too long."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a section" if value else "an empty section"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if value else "an empty list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}...{text[-1]}"
