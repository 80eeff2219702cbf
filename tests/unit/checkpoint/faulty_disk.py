"""A disk on which one operation is the last, or fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from phaseline.checkpoint.disk import Disk

DEATH = 42
"""Exit code of a process that died on purpose."""


class FaultyDisk(Disk):
    """Counts operations, and does something instead of one of them.

    Attributes:
        operations: What was asked for, in order: also how a sweep learns what there is.
    """

    def __init__(self, fault_idx: int | None = None, *, dies: bool = False) -> None:
        """Takes which operation it is.

        Args:
            fault_idx: Its place, from 0; None: every operation works.
            dies: Whether the process ends there; else the operation raises, as on a full disk.
        """
        self.operations: list[str] = []
        self._fault_idx = fault_idx
        self._dies = dies
        self._names: dict[int, str] = {}

    def make_folder(self, path: Path) -> None:
        self._at(f"make {path.name}")
        super().make_folder(path)

    def open(self, path: Path) -> int:
        self._at(f"open {path.name}")
        descriptor = super().open(path)
        self._names[descriptor] = path.name
        self._at(f"opened {path.name}")
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        name = self._names[descriptor]
        operation = f"written half of {name}"
        is_first = operation not in self.operations
        self._at(f"write {name}")
        written = super().write(descriptor, data[: len(data) // 2] if is_first else data)
        if is_first:
            self._at(operation)
        return written

    def flush(self, descriptor: int) -> None:
        self._at(f"flush {self._names[descriptor]}")
        super().flush(descriptor)

    def link(self, path: Path, other: Path) -> None:
        self._at(f"link {other.name}")
        super().link(path, other)

    def rename(self, path: Path, other: Path) -> None:
        self._at(f"rename to {other.name}")
        super().rename(path, other)
        self._at(f"renamed to {other.name}")

    def flush_folder(self, path: Path) -> None:
        self._at(f"flush folder {path.name}")
        super().flush_folder(path)

    def remove(self, folder: Path) -> None:
        self._at(f"remove {folder.name}")
        super().remove(folder)

    def _at(self, operation: str) -> None:
        idx = len(self.operations)
        self.operations.append(operation)
        if idx != self._fault_idx:
            return
        if self._dies:
            os._exit(DEATH)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), operation)
