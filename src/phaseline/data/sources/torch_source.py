"""The source `torch_source`: the installed torch's own Python text, one document per file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from phaseline.data.sources.protocol import Document, Shape
from phaseline.data.sources.python_files import PythonFiles
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class TorchSource:
    """Yields the files of the torch package, which is not imported; the id is the path in it."""

    shape: Shape = "text"

    def __init__(self, packages: Sequence[str] | None = None) -> None:
        """Lists the files.

        Args:
            packages: Modules and packages of torch to keep, as nn; None: all.

        Raises:
            DataError: torch is not installed, or has no such package.
        """
        self._files = PythonFiles("torch_source", _folder_of_torch(), packages)

    def fingerprint(self) -> str:
        """Names the content of the files."""
        return f"torch_source-1-{self._files.fingerprint()}"

    def samples(self) -> Iterator[Document]:
        """Yields one document per file, sorted by path."""
        for path, text in self._files.read():
            yield Document(path, text)


def _folder_of_torch() -> Path:
    # Finding a top-level package imports nothing.
    spec = find_spec("torch")
    folders = None if spec is None else spec.submodule_search_locations
    if not folders:
        raise DataError("data source torch_source finds no torch. Install it, or use another.")
    return Path(folders[0])
