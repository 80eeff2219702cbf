"""Which column is what: as the configuration names them, else recognised by usual names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from phaseline.config.known_sources import ROLES, SHAPE_WORDS, shape_of_roles
from phaseline.data.sources.protocol import Shape
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Given = Mapping[str, "str | Sequence[str]"]
"""Columns by role; `features` may be several."""

# In the order in which they are looked for; a data set has one of them as a rule.
_USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "content", "body", "raw_content"),
    "prompt": ("prompt", "instruction", "question", "query"),
    "input": ("input",),
    "completion": ("completion", "output", "response", "answer"),
    "messages": ("messages", "conversations", "conversation"),
    "tools": ("tools",),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "label": ("label", "labels"),
    "image": ("image", "img"),
    "features": ("features",),
}
# What a row must have to be of a shape: one of each group.
_NEEDED: Mapping[Shape, tuple[tuple[str, ...], ...]] = {
    "text": (("text",),),
    "pairs": (("prompt",), ("completion",)),
    "chats": (("messages",),),
    # The prompt may be what the two answers, given as whole chats, begin with.
    "preferences": (("chosen",), ("rejected",)),
    "labelled": (("label",), ("image", "features", "text")),
}
_MOST_TELLING_FIRST: tuple[Shape, ...] = ("preferences", "chats", "pairs", "labelled", "text")


@dataclass(frozen=True)
class Columns:
    """What is read of every row.

    Attributes:
        shape: What the rows are.
        roles: Columns by role.
        is_recognised: Whether any of it was found by usual names, so that it should be said.
    """

    shape: Shape
    roles: Given = field(default_factory=dict)
    is_recognised: bool = False

    @property
    def names(self) -> list[str]:
        """All columns that are read."""
        return [
            name
            for column in self.roles.values()
            for name in ([column] if isinstance(column, str) else column)
        ]

    def __str__(self) -> str:
        parts = [
            f"{role} from {column if isinstance(column, str) else ', '.join(column)!r}"
            for role, column in self.roles.items()
        ]
        return f"{SHAPE_WORDS[self.shape]}: {', '.join(parts)}"


def are_complete(given: Given, shape: Shape | Literal["auto"]) -> bool:
    """Whether the configuration names all columns that are needed, so that none is looked for."""
    known = shape_of_roles(given) if shape == "auto" else shape
    return known is not None and not _missing(known, given)


def resolve_columns(
    given: Given, shape: Shape | Literal["auto"], present: Iterable[str], place: str
) -> Columns:
    """Says which columns are read as what.

    Args:
        given: What the configuration names.
        shape: What it says the rows are.
        present: The columns that there are.
        place: Where the rows are, for messages.

    Raises:
        DataError: They cannot be told, or what is given contradicts itself.
    """
    names = list(present)
    known = shape_of_roles(given) if shape == "auto" else shape
    chosen = known or _recognise(given, names, place)
    allowed = ("id", *ROLES[chosen])
    for role in given:
        if role not in allowed:
            raise DataError(
                f"{place}: `columns` names one for {role!r}, which {SHAPE_WORDS[chosen]} do not "
                f"have; they have {', '.join(allowed)}. Remove it, or set another `shape`."
            )
    # Who names all that is needed means no other: an `input` that is there stays unread then.
    found = given if not _missing(chosen, given) else _found(given, ROLES[chosen], names)
    missing = _missing(chosen, found)
    if missing:
        role = missing[0][0]
        raise DataError(
            f"{place}: no column for {' or '.join(missing[0])} of {SHAPE_WORDS[chosen]}; there "
            f"are {_listed(names)}. Name it in the source's arguments, as "
            f"`columns: {{{role}: NAME}}`, or set another `shape`."
        )
    return Columns(chosen, found, known is None or found != given)


def _recognise(given: Given, names: list[str], place: str) -> Shape:
    fitting = [shape for shape in _MOST_TELLING_FIRST if _fits(shape, given, names)]
    if not fitting:
        raise DataError(
            f"{place}: the columns {_listed(names)} do not tell what the rows are. Name those "
            "that are meant in the source's arguments, as `columns: {text: NAME}`, "
            "`{prompt: NAME, completion: NAME}`, `{messages: NAME}` or "
            "`{image: NAME, label: NAME}`."
        )
    if fitting == ["labelled", "text"]:
        raise DataError(
            f"{place}: the columns {_listed(names)} could be text to go on with or text with a "
            "label. Set `shape: text` or `shape: labelled` in the source's arguments."
        )
    return fitting[0]


def _fits(shape: Shape, given: Given, names: list[str]) -> bool:
    return not _missing(shape, _found(given, ROLES[shape], names))


def _missing(shape: Shape, found: Given) -> list[tuple[str, ...]]:
    return [group for group in _NEEDED[shape] if not any(role in found for role in group)]


def _found(given: Given, roles: Iterable[str], names: list[str]) -> Given:
    """What is given, and for other roles the first usual name that there is."""
    taken = {name for column in given.values() if isinstance(column, str) for name in [column]}
    found: dict[str, str | Sequence[str]] = dict(given)
    # A labelled thing is one of three, and a given one leaves no room for another.
    inputs = {"image", "features", "text"} if "label" in roles else set()
    for role in roles:
        if role in found or (role in inputs and inputs & found.keys()):
            continue
        usual = [name for name in _USUAL_NAMES.get(role, ()) if name in names and name not in taken]
        if usual:
            found[role] = usual[0]
    return found


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:20]))
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown or "none"
