"""The source `python_stdlib`: the standard library's own text, one document per file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phaseline.data.sources.protocol import Document, Shape
from phaseline.data.sources.python_files import stdlib_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class PythonStdlib:
    """Yields the running interpreter's library; the id is the path inside it."""

    shape: Shape = "text"

    def __init__(self, packages: Sequence[str] | None = None) -> None:
        self._files = stdlib_files("python_stdlib", packages)

    def fingerprint(self) -> str:
        """Names the content of the library's files."""
        return f"python_stdlib-2-{self._files.fingerprint()}"

    def samples(self) -> Iterator[Document]:
        """Yields one document per file, sorted by path."""
        for path, text in self._files.read():
            yield Document(path, text)
