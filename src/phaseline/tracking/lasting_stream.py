"""A text stream whose loss hurts nobody."""

from __future__ import annotations

from typing import TextIO


class LastingStream:
    """Writes to a stream until that fails, then to nowhere.

    A terminal goes when its connection drops, and a pipe when its reader ends. Training
    must not end with them.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream

    def write(self, text: str) -> None:
        """Writes and flushes; characters that the stream cannot encode become `?`."""
        if self._stream is None:
            return
        try:
            encoding = getattr(self._stream, "encoding", None) or "utf-8"
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None
