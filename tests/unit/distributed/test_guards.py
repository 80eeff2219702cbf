from __future__ import annotations

from collections.abc import Callable

from phaseline.distributed.guards import main_process_only


class Host:
    def __init__(self, *, is_main: bool) -> None:
        self.is_main = is_main
        self.written: list[str] = []

    @main_process_only
    def write(self, text: str, *, times: int = 1) -> None:
        """Writes."""
        self.written += [text] * times


def test_guarded_method_runs_when_on_the_main_rank() -> None:
    host = Host(is_main=True)
    host.write("a", times=2)
    assert host.written == ["a", "a"]


def test_guarded_method_does_nothing_when_on_another_rank() -> None:
    host = Host(is_main=False)
    host.write("a")
    assert host.written == []


def test_guarded_method_keeps_its_name_and_words() -> None:
    assert (Host.write.__name__, Host.write.__doc__) == ("write", "Writes.")


def test_guard_is_typed_to_refuse_a_method_that_returns_a_value() -> None:
    # mypy has `warn_unused_ignores`: the check fails if the guard ever accepts this.
    def count(host: Host) -> int:
        return len(host.written)

    guarded: Callable[[Host], None] = main_process_only(count)  # type: ignore[arg-type]  # the point
    assert callable(guarded)
