"""The source `python_stdlib_functions`: from a signature and docstring to the body."""

from __future__ import annotations

import ast
import platform
import warnings
from typing import TYPE_CHECKING

from phaseline.data.sources.protocol import Pair, Shape
from phaseline.data.sources.python_files import stdlib_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Function = ast.FunctionDef | ast.AsyncFunctionDef


class PythonStdlibFunctions:
    """Yields the library's documented functions and methods, each prompt once.

    A prompt is the signature and docstring as they stand in the source, moved to the left
    edge, without decorators. The completion is the rest of the function. Together they
    parse as one top-level function.
    """

    shape: Shape = "pairs"

    def __init__(self, packages: Sequence[str] | None = None) -> None:
        self._files = stdlib_files("python_stdlib_functions", packages)

    def fingerprint(self) -> str:
        """Names the content of the library's files and the parser."""
        # The parser decides what a function is, so its version is part of the content.
        version = platform.python_version()
        return f"python_stdlib_functions-2-{version}-{self._files.fingerprint()}"

    def samples(self) -> Iterator[Pair]:
        """Yields one pair per function, sorted by path, in order of appearance."""
        seen: set[str] = set()
        for path, text in self._files.read():
            for pair in extract_pairs(path, text):
                # The same prompt on both sides of the split would be validated on what was
                # learnt; with two completions it would be a contradiction.
                if pair.prompt not in seen:
                    seen.add(pair.prompt)
                    yield pair


def extract_pairs(path: str, text: str) -> Iterator[Pair]:
    """Yields a pair for every documented function of one file, in order of appearance."""
    module = parse_python(text)
    if module is None:
        return
    # Not str.splitlines: it also breaks at form feeds, which the parser does not count.
    lines = text.split("\n")
    for qualified_name, function in _functions(module, ""):
        cut = _cut(function, lines)
        if cut is not None and _is_one_function("".join(cut)):
            prompt, completion = cut
            yield Pair(f"{path}::{qualified_name}:{function.lineno}", prompt, completion, path)


def parse_python(text: str) -> ast.Module | None:
    """The tree of a source text; None if it is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            return None


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    """Walks modules, classes and blocks, but not functions: those inside belong to the body."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        elif not isinstance(child, ast.expr):
            yield from _functions(child, prefix)


def _cut(function: Function, lines: Sequence[str]) -> tuple[str, str] | None:
    """Cuts a function after its docstring; None if it has none or does nothing after it."""
    docstring, *body = function.body
    if not _is_docstring(docstring) or all(_does_nothing(statement) for statement in body):
        return None
    first, middle, last = function.lineno, docstring.end_lineno or 0, function.end_lineno or 0
    on_own_lines = function.lineno < docstring.lineno and middle < body[0].lineno
    if not on_own_lines:
        return None
    indent = function.col_offset
    prompt = "".join(_dedent(line, indent) + "\n" for line in lines[first - 1 : middle])
    completion = "".join(_dedent(line, indent) + "\n" for line in lines[middle:last])
    return prompt, completion


def _is_docstring(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _does_nothing(statement: ast.stmt) -> bool:
    is_ellipsis = (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and statement.value.value is Ellipsis
    )
    return isinstance(statement, ast.Pass) or is_ellipsis


def _dedent(line: str, indent: int) -> str:
    # A line with less space before it is inside a string or brackets; it stays as it is.
    return line[indent:] if line[:indent].isspace() or not line.strip() else line


def _is_one_function(text: str) -> bool:
    module = parse_python(text)
    return (
        module is not None
        and len(module.body) == 1
        and isinstance(module.body[0], (ast.FunctionDef, ast.AsyncFunctionDef))
    )
