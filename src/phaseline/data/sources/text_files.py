"""The source `text_files`: every file that the patterns match is one document."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING

from phaseline.data.cache import Cache
from phaseline.data.file_digests import digest_files
from phaseline.data.fingerprints import fingerprint_of
from phaseline.data.sources.protocol import Document, Shape
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class TextFiles:
    """Yields UTF-8 files, sorted by path; the id is the path as the pattern gives it."""

    shape: Shape = "text"

    def __init__(self, paths: Sequence[str]) -> None:
        """Lists the files.

        Args:
            paths: Paths or glob patterns (`**` included), relative to the working folder.

        Raises:
            DataError: `paths` is no list, or one of them matches no file.
        """
        if isinstance(paths, str) or not paths:
            raise DataError(
                f"`paths` of a text_files source is {paths!r}; it must be a list of paths or "
                "patterns, as ['corpus/**/*.txt']."
            )
        found: set[str] = set()
        for pattern in paths:
            # Unlike Path.glob it takes absolute patterns as well.
            candidates = glob.glob(pattern, recursive=True)  # noqa: PTH207
            matches = [path for path in candidates if Path(path).is_file()]
            if not matches:
                raise DataError(
                    f"`paths` of a text_files source holds {pattern!r}, which matches no file "
                    f"from {Path.cwd()}. Correct the pattern or start in another folder."
                )
            found.update(matches)
        self.paths = sorted(found)

    def fingerprint(self) -> str:
        """Names the content and the paths of the files."""
        digests = digest_files(self.paths, Cache.of_user().root / "digests")
        return f"text_files-1-{fingerprint_of(self.paths, digests)}"

    def samples(self) -> Iterator[Document]:
        """Yields one document per file.

        Raises:
            DataError: A file is not UTF-8.
        """
        for path in self.paths:
            try:
                yield Document(path, Path(path).read_text(encoding="utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path} of a text_files source is not UTF-8 (byte {error.start}). "
                    "Convert it, or leave it out of the pattern."
                ) from error
