"""Plain text: a file, or each of its lines, is a row with the column `text`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phaseline.data.sources.decompression import open_bytes
from phaseline.data.sources.problems import Problems, Row, RowFault

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_text(path: str, problems: Problems) -> Iterator[Row]:
    """Yields the whole file, its line ends as one line feed."""
    with open_bytes(path) as file:
        content = file.read()
    text = decode(content, path, 0, problems)
    if text is not None:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        yield Row(path, 0, "line", {"text": text})


def read_lines(path: str, problems: Problems) -> Iterator[Row]:
    """Yields every line that is not blank, without its end."""
    for number, line in decoded_lines(path, problems):
        yield Row(path, number, "line", {"text": line})


def decoded_lines(path: str, problems: Problems) -> Iterator[tuple[int, str]]:
    """Yields the number, from 1, and text of every line that is UTF-8 and not blank."""
    with open_bytes(path) as file:
        for number, content in enumerate(file, 1):
            if content.isspace():
                continue
            line = decode(content, path, number, problems)
            if line is not None:
                yield number, line.rstrip("\r\n")


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
