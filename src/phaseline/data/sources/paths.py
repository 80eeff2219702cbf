"""Which files a source is made of."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

from phaseline.config.places import current_places, fixed_part, located
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

    Returns:
        The files as the paths write them: `located` says where each lies.

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
        place = located(path)
        is_folder = Path(place).is_dir()
        files = [
            _as_written(file, path, place)
            for file in (_files_in(place, takes) if is_folder else _matches(place))
        ]
        if not files:
            kind = "a folder without a file that this source reads"
            problem = kind if is_folder else "which matches no file"
            folders = current_places().folders
            fix = (
                "If it was moved, name the place where it lies now: the same contents are no "
                "change of the session."
                if folders
                else "Correct it or start in another folder."
            )
            start = folders[0] if folders else Path.cwd()
            raise DataError(
                f"`paths` of a {owner} source holds {path!r}, {problem} from {start}. {fix}"
            )
        found.update(files)
    return sorted(found)


def _as_written(file: str, path: str, place: str) -> str:
    """A file by the path of the configuration, whatever place that leads to: it names the file."""
    if place == path:
        return file
    if Path(place).is_file():
        return path
    here, there = Path(fixed_part(path)), Path(fixed_part(place))
    return str(here / Path(file).relative_to(there))


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
