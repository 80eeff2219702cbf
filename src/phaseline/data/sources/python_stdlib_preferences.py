"""The source `python_stdlib_preferences`: the real body of a function before a plausible wrong one."""

from __future__ import annotations

import ast
import builtins
import hashlib
import keyword
import platform
from typing import TYPE_CHECKING, get_args

from phaseline.config.known_sources import PreferenceKind
from phaseline.data.sources.protocol import Pair, Preference, Shape
from phaseline.data.sources.python_files import stdlib_files
from phaseline.data.sources.python_stdlib_functions import extract_pairs, parse_python
from phaseline.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_MOST_LENGTH_DIFFERENCE = 0.2
_KEPT_WHEN_CUT = (0.4, 0.8)
_NEVER_RENAMED = frozenset({"self", "cls", *dir(builtins), *keyword.kwlist})


class PythonStdlibPreferences:
    """Yields the library's documented functions with the body they have, and one they have not.

    The prompts are those of `python_stdlib_functions`. A wrong body is of one of three kinds:

    - `other`: that of another function of the same file, and so of the same side of a split;
    - `renamed`: the real one, in which one of its names became that of another function;
    - `truncated`: the real one, cut off in the middle of a line.

    Of the first two, both bodies are of about one length, so that the length tells nothing: they
    differ by at most a fifth. A function has one sample of each kind that can be made of it.
    """

    shape: Shape = "preferences"

    def __init__(
        self,
        packages: Sequence[str] | None = None,
        kinds: Sequence[PreferenceKind] = ("other", "renamed"),
    ) -> None:
        unknown = set(kinds) - set(get_args(PreferenceKind))
        if unknown or not kinds:
            raise DataError(
                f"`kinds` of a python_stdlib_preferences source is {list(kinds)!r}; it must be a "
                f"list of {', '.join(get_args(PreferenceKind))}."
            )
        self._files = stdlib_files("python_stdlib_preferences", packages)
        self._kinds = [kind for kind in get_args(PreferenceKind) if kind in kinds]

    def fingerprint(self) -> str:
        """Names the content of the library's files, the parser and the kinds."""
        version, kinds = platform.python_version(), "-".join(self._kinds)
        return f"python_stdlib_preferences-1-{version}-{kinds}-{self._files.fingerprint()}"

    def samples(self) -> Iterator[Preference]:
        """Yields the preferences of every function, sorted by path, in order of appearance."""
        seen: set[str] = set()
        for path, text in self._files.read():
            functions = [_Function(pair) for pair in extract_pairs(path, text)]
            for function in functions:
                # As in the source of pairs: the same prompt may have another real body elsewhere.
                if function.pair.prompt not in seen:
                    seen.add(function.pair.prompt)
                    yield from self._preferences(function, functions)

    def _preferences(
        self, function: _Function, of_file: Sequence[_Function]
    ) -> Iterator[Preference]:
        pair = function.pair
        for kind in self._kinds:
            rejected = _MAKERS[kind](function, of_file)
            if rejected is not None:
                yield Preference(
                    f"{pair.id}:{kind}", pair.prompt, pair.completion, rejected, pair.document
                )


class _Function:
    """A function, and what its names are."""

    def __init__(self, pair: Pair) -> None:
        module = parse_python(pair.prompt + pair.completion)
        assert module is not None, "a pair is a whole function"
        self.pair = pair
        nodes = list(ast.walk(module))
        names = [node for node in nodes if isinstance(node, ast.Name)]
        self.parameters = {node.arg for node in nodes if isinstance(node, ast.arg)}
        own = self.parameters | {node.id for node in names if isinstance(node.ctx, ast.Store)}
        attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        self.names = self.parameters | attributes | {node.id for node in names}
        # Where its own names are read in the body: (line, byte in it), from 0.
        self.uses: dict[str, list[tuple[int, int]]] = {}
        first_line = pair.prompt.count("\n") + 1
        for node in names:
            if isinstance(node.ctx, ast.Load) and node.id in own and node.lineno >= first_line:
                place = (node.lineno - first_line, node.col_offset)
                self.uses.setdefault(node.id, []).append(place)


def _other_body(function: _Function, of_file: Sequence[_Function]) -> str | None:
    """The body of another function of the file, of about this length."""
    pair, length = function.pair, len(function.pair.completion)
    fitting = [
        other.completion
        for other in (one.pair for one in of_file)
        if other.completion != pair.completion
        and other.prompt != pair.prompt
        and abs(len(other.completion) - length) <= _MOST_LENGTH_DIFFERENCE * length
    ]
    return fitting[_draw(pair.id, len(fitting))] if fitting else None


def _misnamed_body(function: _Function, of_file: Sequence[_Function]) -> str | None:
    """The body with one of the function's names replaced by a name that it does not have."""
    pair = function.pair
    named = sorted(function.uses.keys() - _NEVER_RENAMED)
    strange = {name for other in of_file for name in other.parameters}
    strange -= function.names | _NEVER_RENAMED
    if not named or not strange:
        return None
    old = named[_draw(pair.id, len(named))]
    # Of a name's own length, as far as there is one.
    distance = min(abs(len(name) - len(old)) for name in strange)
    nearest = [name for name in sorted(strange) if abs(len(name) - len(old)) == distance]
    new = nearest[_draw(f"{pair.id}:{old}", len(nearest))]
    body = _replaced(pair.completion, function.uses[old], old, new)
    shortest, longest = sorted((len(body), len(pair.completion)))
    if longest - shortest > _MOST_LENGTH_DIFFERENCE * len(pair.completion):
        return None
    return body if body != pair.completion and parse_python(pair.prompt + body) else None


def _truncated_body(function: _Function, of_file: Sequence[_Function]) -> str | None:  # noqa: ARG001
    """The beginning of the body, up to the middle of a line."""
    pair, body = function.pair, function.pair.completion
    first, last = (int(share * len(body)) for share in _KEPT_WHEN_CUT)
    places = [
        place
        for place in range(max(1, first), last)
        if body[place - 1 : place + 1].isalnum()  # within a word or a number
    ]
    return body[: places[_draw(pair.id, len(places))]] if places else None


_MAKERS: dict[PreferenceKind, Callable[[_Function, Sequence[_Function]], str | None]] = {
    "other": _other_body,
    "renamed": _misnamed_body,
    "truncated": _truncated_body,
}


def _draw(key: str, num_choices: int) -> int:
    """A choice that depends on the key alone; 0 if there is none."""
    number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
    return number % max(1, num_choices)


def _replaced(body: str, places: Sequence[tuple[int, int]], old: str, new: str) -> str:
    """The body with the name at each of these places replaced."""
    lines = [line.encode() for line in body.split("\n")]
    for line_idx, column in sorted(places, reverse=True):
        line = lines[line_idx]
        end = column + len(old.encode())
        # Within an f-string, older parsers do not say where in the line a name stands.
        if line[column:end] == old.encode():
            lines[line_idx] = line[:column] + new.encode() + line[end:]
    return b"\n".join(lines).decode()
