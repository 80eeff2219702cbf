"""A file system that refuses one call below a folder, as full disks and lost servers do."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

_CALLS = ("open", "write", "fsync", "link", "rename", "replace", "mkdir")
ERRORS = (errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EDQUOT)


@dataclass
class Refusing:
    """Counts the calls of the product's own code below a folder, and refuses one of them.

    Attributes:
        folder: Where calls count.
        refused: The call to refuse, as (place in the code, which of its calls from 1, errno).
        seen: How often each place in the code made a call.
    """

    folder: Path
    refused: tuple[str, int, int] | None = None
    seen: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Stands between the code and the file system while it lasts."""
        with pytest.MonkeyPatch.context() as patch:
            for name in _CALLS:
                patch.setattr(os, name, self._wrapped(name, getattr(os, name)))
            yield

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            path = _path_of(arguments[0])
            place = _place_in_the_code() if path.startswith(str(self.folder)) else ""
            if place and self._is_refused(f"{name} in {place}"):
                assert self.refused is not None
                code = self.refused[2]
                raise OSError(code, os.strerror(code), path)
            return real(*arguments, **options)

        return call

    def _is_refused(self, place: str) -> bool:
        with self._lock:
            count = self.seen[place] = self.seen.get(place, 0) + 1
        return self.refused is not None and (place, count) == self.refused[:2]


def _path_of(target: object) -> str:
    if isinstance(target, int):
        try:
            return str(Path(f"/proc/self/fd/{target}").readlink())
        except OSError:
            return ""
    return os.fsdecode(target) if isinstance(target, (str, bytes, os.PathLike)) else ""


def _place_in_the_code() -> str:
    """File and function of the nearest caller in the package; empty for other callers."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if "/phaseline/" in name and "/site-packages/" not in name:
            return f"{name.rpartition('/phaseline/')[2]}:{frame.f_code.co_name}"
        if "/unit/" in name:
            return ""
        frame = frame.f_back
    return ""
