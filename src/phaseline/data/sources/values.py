"""Single values of a row, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phaseline.data.sources.problems import RowFault

if TYPE_CHECKING:
    from phaseline.data.sources.problems import Row


def require_column(row: Row, name: str) -> object:
    """What a row holds in a column.

    Raises:
        RowFault: It has no such column.
    """
    if name not in row.values:
        there = ", ".join(map(repr, list(row.values)[:20])) or "none"
        raise RowFault(
            "no column of the name",
            f"there is no column {name!r}; there are {there}",
            "Name another in `columns`, or add it to the row.",
        )
    return row.values[name]


def read_text(row: Row, name: str, *, may_be_empty: bool = True, may_be_null: bool = False) -> str:
    """The text in a column; null is an empty one where that may be.

    Raises:
        RowFault: It is no text, or an empty one where that may not be.
    """
    value = require_column(row, name)
    if value is None and may_be_null:
        return ""
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        fix = "Convert it to text, or name another column in `columns`."
        raise RowFault("no text", f"the column {name!r} holds {kind}, not text", fix)
    if not may_be_empty and (not value or value.isspace()):
        fix = "Remove the row, or fill it in."
        raise RowFault("empty text", f"the column {name!r} is empty", fix)
    return require_utf8(value, name)


def require_utf8(value: str, name: str) -> str:
    """The text itself.

    Raises:
        RowFault: It holds half a character, which no tokenizer takes.
    """
    if value.isascii():
        return value
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        # A byte that was no UTF-8 in a CSV file, or half of a pair in JSON, as "\ud800".
        found = f"the column {name!r} holds what is not UTF-8, at character {error.start}"
        raise RowFault("not UTF-8", found, "Convert the file to UTF-8.") from None
    return value


def read_name(row: Row, name: str) -> str:
    """The text or whole number in a column, as text.

    Raises:
        RowFault: It is neither, or empty.
    """
    value = require_column(row, name)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        fix = "Ids are texts or whole numbers; name another column, or none."
        raise RowFault("no id", f"the column {name!r} holds {value!r:.60}, no id", fix)
    return require_utf8(str(value), name)
