"""JSONL, an object per line, and JSON, a list of objects or an object of columns."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from phaseline.data.sources.decompression import open_bytes
from phaseline.data.sources.formats.text import LARGEST_WHOLE_BYTES, decode, decoded_lines
from phaseline.data.sources.problems import Problems, Row, RowFault

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_json_lines(path: str, problems: Problems, longest_mib: int) -> Iterator[Row]:
    """Yields the object of every line that is not blank."""
    for number, line in decoded_lines(path, problems, longest_mib):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            fault = _no_json(error, "Correct the line, or remove it.")
            problems.meet_row(fault, Row(path, number, "line", {}))
            continue
        if isinstance(values, dict):
            yield Row(path, number, "line", values)
        else:
            problems.meet_row(_no_object(values), Row(path, number, "line", {}))


def read_json(path: str, problems: Problems) -> Iterator[Row]:
    """Yields the members of a list, or the rows of an object of equally long lists."""
    # JSON cannot be read piece by piece with the standard library; JSONL can.
    with open_bytes(path) as file:
        content = file.read(LARGEST_WHOLE_BYTES + 1)
    if len(content) > LARGEST_WHOLE_BYTES:
        found = f"is larger than {LARGEST_WHOLE_BYTES >> 20} MiB, and JSON is read as a whole"
        fix = "Convert it to JSONL, an object per line, which is read line by line."
        problems.meet(RowFault("too large file", found, fix), path)
        return
    text = decode(content, path, 0, problems)
    if text is None:
        return
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        fix = "Correct it; if it holds an object per line, set `format: jsonl`."
        problems.meet(_no_json(error, fix), path)
        return
    for number, values in enumerate(_members(whole, path, problems), 1):
        row = Row(path, number, "row", values if isinstance(values, dict) else {})
        if isinstance(values, dict):
            yield row
        else:
            problems.meet_row(_no_object(values), row)


def _members(whole: object, path: str, problems: Problems) -> list[object]:
    if isinstance(whole, list):
        return whole
    if isinstance(whole, dict) and whole and all(isinstance(v, list) for v in whole.values()):
        lengths = {name: len(column) for name, column in whole.items()}
        if len(set(lengths.values())) == 1:
            return [
                dict(zip(whole, values, strict=True))
                for values in zip(*whole.values(), strict=True)
            ]
        found = f"holds columns of different lengths, {lengths}"
    else:
        found = f"holds {_kind(whole)}, not rows"
    fix = "It must be a list of objects, or an object of lists of one length."
    problems.meet(RowFault("no rows", found, fix), path)
    return []


def _no_json(error: ValueError | RecursionError, fix: str) -> RowFault:
    why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return RowFault("corrupt JSON", f"is no JSON: {why}", fix)


def _no_object(found: object) -> RowFault:
    fix = 'Each row must be an object, as {"text": "..."}.'
    return RowFault("no object", f"is {_kind(found)}, not an object", fix)


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return "null" if value is None else kinds.get(type(value), "a number")
