"""Sizes and names: a reader opens one file and sees one idea."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from architecture.source_tree import (
    Function,
    functions,
    name_of,
    package_files,
    parse,
    python_files,
)

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 40
MAX_TRAIN_STEP_LINES = 80
MAX_CONSTRUCTOR_PARAMETERS = 8
BANNED_FILE_NAMES = {"utils", "helpers", "misc", "common"}
TRAIN_STEP = ("src/phaseline/training/phases/phase_manager.py", {"train_step", "_train_step"})


def _code_lines(function: Function) -> int:
    """Lines from the signature's end to the function's, the docstring not counted."""
    first = function.body[0]
    last = function.end_lineno or function.lineno
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return last - (first.end_lineno or first.lineno)
    return last - first.lineno + 1


def _max_lines(path: Path, function: Function) -> int:
    file, names = TRAIN_STEP
    is_train_step = name_of(path) == file and function.name in names
    return MAX_TRAIN_STEP_LINES if is_train_step else MAX_FUNCTION_LINES


def test_every_file_is_within_the_law() -> None:
    sizes = {name_of(path): len(path.read_text().splitlines()) for path in python_files()}
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_LINES} == {}


def test_no_file_has_a_banned_name() -> None:
    assert [name_of(path) for path in python_files() if path.stem in BANNED_FILE_NAMES] == []


def test_every_function_of_the_package_is_short() -> None:
    long = [
        f"{name_of(path)}:{function.lineno} {function.name} has {_code_lines(function)} lines"
        for path in package_files()
        for function in functions(parse(path))
        if _code_lines(function) > _max_lines(path, function)
    ]
    assert long == []


def test_every_constructor_takes_few_parameters() -> None:
    wide = [
        f"{name_of(path)}:{function.lineno}"
        for path in package_files()
        for function in functions(parse(path))
        if function.name == "__init__"
        and len(function.args.args) - 1 + len(function.args.kwonlyargs) > MAX_CONSTRUCTOR_PARAMETERS
    ]
    assert wide == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("def f():\n    return 1\n", 1),
        ('def f():\n    """Does."""\n    a = 1\n    return a\n', 2),
        ('def f(\n    a,\n    b,\n):\n    """Does.\n\n    More.\n    """\n    return a\n', 1),
    ],
)
def test_code_lines_counts_neither_signature_nor_docstring(source: str, lines: int) -> None:
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert _code_lines(function) == lines
