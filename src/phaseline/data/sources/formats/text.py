"""Plain text: a file, or each of its lines, is a row with the column `text`.

A line is held whole, and what it becomes takes some forty times its size. So there is a limit,
above which it is a problem like any other, and is not read on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from phaseline.data.sources.decompression import open_bytes
from phaseline.data.sources.problems import Problems, Row, RowFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    _Text = TypeVar("_Text", str, bytes)

LARGEST_WHOLE_BYTES = 1 << 29
"""Of a file that is read as a whole, decompressed."""
_SKIPPED_AT_ONCE = 1 << 20


def read_text(path: str, problems: Problems) -> Iterator[Row]:
    """Yields the whole file, its line ends as one line feed."""
    with open_bytes(path) as file:
        content = file.read(LARGEST_WHOLE_BYTES + 1)
    if len(content) > LARGEST_WHOLE_BYTES:
        found = f"is larger than {LARGEST_WHOLE_BYTES >> 20} MiB, and a text is read as a whole"
        fix = "Split it, or set `format: lines` for a text per line."
        problems.meet(RowFault("too large file", found, fix), path)
        return
    text = decode(content, path, 0, problems)
    if text is not None:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        yield Row(path, 0, "line", {"text": text})


def read_lines(path: str, problems: Problems, longest_mib: int) -> Iterator[Row]:
    """Yields every line that is not blank, without its end."""
    for number, line in decoded_lines(path, problems, longest_mib):
        yield Row(path, number, "line", {"text": line})


def decoded_lines(path: str, problems: Problems, longest_mib: int) -> Iterator[tuple[int, str]]:
    """Yields the number, from 1, and text of every line that is UTF-8 and not blank.

    Args:
        path: Of the file.
        problems: Meets other lines, and those that are too long.
        longest_mib: Size of the longest line, MiB.
    """
    with open_bytes(path) as file:
        lines = bounded_lines(file.readline, path, problems, longest_mib, instead=b"\n")
        for number, content in enumerate(lines, 1):
            if content.isspace():
                continue
            line = decode(content, path, number, problems)
            if line is not None:
                yield number, line.rstrip("\r\n")


def bounded_lines(
    read_line: Callable[[int], _Text],
    path: str,
    problems: Problems,
    longest_mib: int,
    *,
    instead: _Text,
) -> Iterator[_Text]:
    """Yields every line with its end; one that is too long is met and read no further than that.

    Args:
        read_line: Reads a line, but no more than so many bytes or characters of it.
        path: Of the file.
        problems: Meets what is too long.
        longest_mib: The limit, in units of 2^20.
        instead: What stands for such a line where it may be left out.
    """
    longest, number = longest_mib << 20, 0
    while line := read_line(longest + 1):
        number += 1
        if len(line) <= longest:
            yield line
            continue
        found = f"is longer than {longest_mib} MiB"
        fix = "Split it, or raise `longest_line_mib` in the source's arguments."
        problems.meet_row(
            RowFault("a line that is too long", found, fix), Row(path, number, "line", {})
        )
        while line and line[-1:] != instead:
            line = read_line(_SKIPPED_AT_ONCE)
        yield instead


def decode(content: bytes, path: str, number: int, problems: Problems) -> str | None:
    """Decodes UTF-8; None if it is none and may be left out.

    Args:
        content: A file or a line.
        path: Of the file.
        number: Of the line, from 1; 0: the whole file, and problems name the byte.
        problems: Meets what is no UTF-8.
    """
    try:
        # A byte order mark may stand before the first character, and is no part of the text.
        return content.decode("utf-8-sig" if number <= 1 else "utf-8")
    except UnicodeDecodeError as error:
        place = Row(path, number, "line", {})
        fix = "Convert the file to UTF-8."
        problems.meet_row(
            RowFault("not UTF-8", f"byte {error.start} of it is not UTF-8", fix), place
        )
        return None
