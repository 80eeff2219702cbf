"""A collective under a rank guard hangs the other ranks; so no guarded body may hold one."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from architecture.source_tree import (
    Function,
    called_names,
    decorator_names,
    functions,
    name_of,
    package_files,
    parse,
)

GUARD = "main_process_only"
COLLECTIVES = {
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "all_reduce_sum",
    "all_to_all",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "broadcast_object_list",
    "gather",
    "gather_for_metrics",
    "gather_object",
    "gather_objects",
    "monitored_barrier",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "require_agreement",
    "scatter",
    "scatter_object_list",
    "wait_for_everyone",
}


def _collectives_under_guard(tree: ast.Module) -> Iterator[str]:
    """Collectives that a guarded function reaches through functions of its own file."""
    by_name: dict[str, list[Function]] = {}
    for function in functions(tree):
        by_name.setdefault(function.name, []).append(function)
    for guarded in functions(tree):
        if GUARD not in decorator_names(guarded):
            continue
        seen: set[str] = set()
        waiting: list[Function] = [guarded]
        while waiting:
            for name, line in called_names(waiting.pop()):
                if name in COLLECTIVES:
                    yield f"{guarded.name} reaches {name} in line {line}"
                elif name not in seen:
                    seen.add(name)
                    waiting += by_name.get(name, [])


def test_no_guarded_function_calls_a_collective() -> None:
    found = [
        f"{name_of(path)}: {fault}"
        for path in package_files()
        for fault in _collectives_under_guard(parse(path))
    ]
    assert found == []


def test_guard_is_in_use() -> None:
    assert any(
        GUARD in decorator_names(function)
        for path in package_files()
        for function in functions(parse(path))
    )


@pytest.mark.parametrize(
    "source",
    [
        "@main_process_only\ndef f(x):\n    dist.all_reduce(x)\n",
        "@guards.main_process_only\ndef f(self):\n    self.g()\ndef g(self):\n    barrier()\n",
    ],
)
def test_rule_finds_the_collective_when_it_is_direct_or_one_call_away(source: str) -> None:
    assert list(_collectives_under_guard(ast.parse(source)))


def test_rule_finds_nothing_when_the_collective_stands_before_the_guarded_call() -> None:
    source = "@main_process_only\ndef f(x):\n    print(x)\ndef g(x):\n    all_reduce(x)\n    f(x)\n"
    assert list(_collectives_under_guard(ast.parse(source))) == []
