"""Which files a source is made of."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def list_files(owner: str, paths: Sequence[str], takes: Callable[[str], bool]) -> list[str]:
    """Lists files, sorted and each once, as the paths give them.

    Args:
        owner: Name of the source, for messages.
        paths: Files, folders, which are searched to any depth, and glob patterns (`**`
            included), relative to the working folder.
        takes: Whether a file that was found in a folder is one of the source's; what begins
            with a dot never is. A file that is named or matched is taken in any case.

    Raises:
        DataError: `paths` is no list, or one of them gives no file.
    """
    if isinstance(paths, str) or not paths:
        raise DataError(
            f"`paths` of a {owner} source is {paths!r}; it must be a list of paths, folders or "
            "patterns, as ['corpus/**/*.txt']."
        )
    found: set[str] = set()
    for path in paths:
        files = list(_files_in(path, takes) if Path(path).is_dir() else _matches(path))
        if not files:
            kind = "a folder without a file that this source reads"
            problem = kind if Path(path).is_dir() else "which matches no file"
            raise DataError(
                f"`paths` of a {owner} source holds {path!r}, {problem} from {Path.cwd()}. "
                "Correct it or start in another folder."
            )
        found.update(files)
    return sorted(found)


def _matches(pattern: str) -> Iterator[str]:
    if Path(pattern).is_file():
        # Its name may hold what a pattern gives a meaning to, as brackets.
        yield pattern
        return
    # Unlike Path.glob it takes absolute patterns as well.
    for path in glob.iglob(pattern, recursive=True):  # noqa: PTH207
        if Path(path).is_file():
            yield path


def _files_in(root: str, takes: Callable[[str], bool]) -> Iterator[str]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            path = str(Path(folder, name))
            if not name.startswith(".") and takes(path) and Path(path).is_file():
                yield path
