"""The source `token_files`: text that is tokenised already, mapped and never read as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phaseline.config.places import located
from phaseline.data.file_digests import fingerprint_files
from phaseline.data.fingerprints import fingerprint_of
from phaseline.data.sources.paths import list_files
from phaseline.data.sources.problems import OnError, Problems, RowFault
from phaseline.data.sources.protocol import Shape, TokenDocument
from phaseline.errors import DataError, UnreachableFileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Tokens = NDArray[np.integer[Any]]

_SUFFIXES = (".bin", ".npy")
_TOKENS_LOOKED_AT = 1 << 20


class TokenFiles:
    """Yields documents as views of the mapped files; the id is path and number of the document.

    A `.npy` file of two dimensions holds a document per row. Any other file is one run of
    tokens: cut after each end-of-text token, or into documents of one length, or one document.
    """

    shape: Shape = "text"

    def __init__(
        self,
        paths: Sequence[str],
        dtype: str | None = None,
        end_of_text: int | None = None,
        document_length: int | None = None,
        on_error: OnError = "stop",
    ) -> None:
        """Lists the files.

        Args:
            paths: `.bin` and `.npy` files, folders and patterns.
            dtype: Of the tokens in `.bin` files, little endian.
            end_of_text: The token behind each document; it becomes no part of them.
            document_length: Tokens per document; the last of a file may be shorter.
            on_error: stop: a file or document that cannot be used is refused; skip: counted.

        Raises:
            DataError: There are none, or the arguments do not fit them.
        """
        self.paths = list_files("token_files", paths, lambda path: path.endswith(_SUFFIXES))
        raw = [path for path in self.paths if not path.endswith(".npy")]
        if raw and dtype is None:
            raise DataError(
                f"{raw[0]} of a token_files source does not say of what type its tokens are. Set "
                "`dtype` in the source's arguments, for example uint16."
            )
        if end_of_text is not None and document_length is not None:
            raise DataError(
                "a token_files source has both `end_of_text` and `document_length`. Keep one."
            )
        self._dtype = None if dtype is None else np.dtype(dtype).newbyteorder("<")
        self._end_of_text = end_of_text
        self._document_length = document_length
        self._on_error: OnError = on_error
        self._problems = Problems(on_error)

    @property
    def skipped(self) -> Mapping[str, int]:
        """What the last pass left out, by reason."""
        return self._problems.counts

    def fingerprint(self) -> str:
        """Names the content and the paths of the files, and how they are cut."""
        content = fingerprint_files(self.paths)
        settings = (str(self._dtype), self._end_of_text, self._document_length, self._on_error)
        return f"token_files-1-{fingerprint_of(self.paths, content, settings)}"

    def samples(self) -> Iterator[TokenDocument]:
        """Yields every document that is not empty.

        Raises:
            DataError: A file or document cannot be used, and shall not be left out.
        """
        self._problems = Problems(self._on_error)
        for path in self.paths:
            tokens = self._open(path)
            if tokens is None:
                continue
            for number, document in enumerate(self._cut(tokens), 1):
                if len(document):
                    yield TokenDocument(f"{path}:{number}", document)
                else:
                    fault = RowFault("empty text", "has no tokens", "Remove it.")
                    self._problems.meet(fault, f"{path}, document {number}")

    def _open(self, path: str) -> Tokens | None:
        try:
            tokens = self._map(path)
        except (OSError, ValueError) as error:
            UnreachableFileError.require_lasting(error, path)
            fix = "Copy or write it again."
            fault = RowFault("a damaged file", f"the file cannot be mapped: {error}", fix)
            self._problems.meet(fault, path)
            return None
        if np.issubdtype(tokens.dtype, np.integer) and tokens.ndim in (1, 2):
            return tokens
        self._problems.meet(
            RowFault(
                "no tokens",
                f"holds {tokens.dtype} in {tokens.ndim} dimensions",
                "Tokens are whole numbers in one dimension, or in two with a document per row.",
            ),
            path,
        )
        return None

    def _map(self, path: str) -> NDArray[Any]:
        if path.endswith(".npy"):
            # A view of the map without numpy's own class, which costs more at each cut.
            return np.asarray(np.load(located(path), mmap_mode="r", allow_pickle=False))
        assert self._dtype is not None
        place = located(path)
        size = Path(place).stat().st_size
        if size % self._dtype.itemsize:
            raise ValueError(
                f"its {size} bytes are no whole number of tokens of {self._dtype.itemsize} bytes"
            )
        # An empty file cannot be mapped.
        return np.asarray(np.memmap(place, self._dtype, "r")) if size else np.zeros(0, self._dtype)

    def _cut(self, tokens: Tokens) -> Iterator[Tokens]:
        if tokens.ndim == 2:
            yield from tokens
        elif self._end_of_text is not None:
            yield from _between(tokens, self._end_of_text)
        elif self._document_length is not None:
            for first in range(0, len(tokens), self._document_length):
                yield tokens[first : first + self._document_length]
        else:
            yield tokens


def _between(tokens: Tokens, end_of_text: int) -> Iterator[Tokens]:
    """The documents before each end-of-text token, and what follows the last one, if anything."""
    begin = 0
    for first in range(0, len(tokens), _TOKENS_LOOKED_AT):
        piece = tokens[first : first + _TOKENS_LOOKED_AT]
        for end in (np.flatnonzero(piece == end_of_text) + first).tolist():
            yield tokens[begin:end]
            begin = end + 1
    if begin < len(tokens):
        yield tokens[begin:]
