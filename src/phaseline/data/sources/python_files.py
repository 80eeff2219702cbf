"""The Python source files of an installed library."""

from __future__ import annotations

import io
import os
import sysconfig
import tokenize
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from phaseline.data.file_digests import fingerprint_files
from phaseline.data.fingerprints import fingerprint_of
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Folders that hold tests, another program, or what the user installed.
_EXCLUDED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "idlelib", "site-packages", "dist-packages", "__pycache__"}
)


class PythonFiles:
    """Lists, identifies and reads a library's files, those of some packages or all."""

    def __init__(self, owner: str, root: Path, packages: Sequence[str] | None = None) -> None:
        """Lists the files.

        Args:
            owner: Name of the source, for messages.
            root: Folder of the library.
            packages: Modules and packages in it to keep; None: all.

        Raises:
            DataError: There are no source files, or a package does not exist.
        """
        self.root = root
        by_package: dict[str, list[str]] = {}
        for relative in _list_python_files(self.root):
            by_package.setdefault(_top_level_name(relative), []).append(relative)
        if not by_package:
            raise DataError(
                f"data source {owner} found no Python files in {self.root}; this installation "
                "comes without the library's source (as the embeddable builds of Python do). Use "
                "another interpreter, or the source text_files."
            )
        kept = by_package if packages is None else _require_packages(owner, packages, by_package)
        self.paths = sorted(path for name in kept for path in by_package[name])

    def fingerprint(self) -> str:
        """Names the content of all files, by their bytes: a changed time alone changes nothing."""
        files = [str(self.root / relative) for relative in self.paths]
        content = fingerprint_files(files)
        return fingerprint_of(self.paths, content)

    def read(self) -> Iterator[tuple[str, str]]:
        """Yields (path relative to the library, text); a file that is no valid text is left out."""
        for relative in self.paths:
            text = decode_python((self.root / relative).read_bytes())
            if text is not None:
                yield relative, text


def decode_python(content: bytes) -> str | None:
    """Decodes source by its coding declaration, line ends as one line feed; None if that fails."""
    buffer = io.BytesIO(content)
    try:
        encoding, _ = tokenize.detect_encoding(buffer.readline)
        text = content.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError):
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _list_python_files(root: Path) -> Iterator[str]:
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name not in _EXCLUDED_FOLDERS)
        for name in files:
            if name.endswith(".py"):
                yield Path(folder, name).relative_to(root).as_posix()


def _top_level_name(relative: str) -> str:
    return relative.split("/", 1)[0].removesuffix(".py")


def stdlib_files(owner: str, packages: Sequence[str] | None) -> PythonFiles:
    """The running interpreter's standard library."""
    return PythonFiles(owner, Path(sysconfig.get_path("stdlib")), packages)


def _require_packages(owner: str, packages: Sequence[str], known: dict[str, list[str]]) -> set[str]:
    if isinstance(packages, str) or not packages:
        raise DataError(
            f"`packages` of a {owner} source is {packages!r}; it must be a list of names, "
            "as [json, email]."
        )
    unknown = sorted(set(packages) - known.keys())
    if unknown:
        near = get_close_matches(unknown[0], known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise DataError(
            f"`packages` of a {owner} source holds {unknown}, which {owner} does not have "
            f"as Python source.{hint}"
        )
    return set(packages)
