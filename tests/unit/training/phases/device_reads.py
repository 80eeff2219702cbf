"""Counts what is read from the device, and who reads it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import phaseline

_PACKAGE = Path(phaseline.__file__).parent
_TORCH = Path(torch.__file__).parent
_READING_OPERATORS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "unique2"}
# These reach no dispatcher where the tensor lies on the CPU already, as it does in tests.
_READING_METHODS = {"tolist", "numpy", "cpu", "__array__", "__repr__", "__format__"}


class DeviceReads:
    """Counts every call that makes the host wait for the device.

    Attributes:
        by_whom: Number of reads by the file of the package that asked for them, as
            `training/phases/step_metrics.py`. What torch does inside counts for its caller.
    """

    def __init__(self) -> None:
        self.by_whom: Counter[str] = Counter()

    @contextmanager
    def counting(self) -> Iterator[DeviceReads]:
        """Counts while the block lasts."""
        with _Methods(self._count), _Operators(self._count):
            yield self

    def take(self) -> dict[str, int]:
        """Returns the counts and starts anew."""
        taken = dict(self.by_whom)
        self.by_whom.clear()
        return taken

    def _count(self) -> None:
        self.by_whom[_asker()] += 1


def _asker() -> str:
    """The innermost file that is neither torch's nor this one."""
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path != Path(__file__) and _TORCH not in path.parents and path.is_absolute():
            inside = _PACKAGE in path.parents
            return path.relative_to(_PACKAGE).as_posix() if inside else path.name
        assert frame.f_back is not None
        frame = frame.f_back
    raise AssertionError("a frame without a file")


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not type it
    def __init__(self, count: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nor this
        self._count = count

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.overloadpacket.__name__ in _READING_OPERATORS:
            self._count()
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __init__(self, count: Callable[[], None]) -> None:
        super().__init__()
        self._count = count

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in _READING_METHODS:
            self._count()
        return func(*args, **(kwargs or {}))
