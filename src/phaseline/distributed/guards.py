"""Keeping a side effect to the main rank."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

Params = ParamSpec("Params")


class KnowsMain(Protocol):
    """Anything that can say whether it lives on the main rank."""

    @property
    def is_main(self) -> bool:
        """Whether this is the main rank."""


Self = TypeVar("Self", bound=KnowsMain)


def main_process_only(
    method: Callable[Concatenate[Self, Params], None],
) -> Callable[Concatenate[Self, Params], None]:
    """Makes a method do nothing on every rank but the main one.

    It wraps the leaf that writes: the method returns None and must call no collective,
    because the other ranks would not take part in it.
    """

    def guarded(self: Self, /, *args: Params.args, **kwargs: Params.kwargs) -> None:
        if self.is_main:
            method(self, *args, **kwargs)

    functools.update_wrapper(guarded, method)
    return guarded
