"""YAML 1.2 to a tree of values that know their line."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.nodes import Node as YamlNode
from ruamel.yaml.reader import ReaderError

from phaseline.config.bounded_yaml import (
    MAX_DEPTH,
    MAX_FILE_BYTES,
    MAX_KEY,
    MAX_TEXT,
    MAX_VALUES,
    BoundError,
    NestingError,
    compose,
)
from phaseline.config.tree import Loc, Node, Scalar, found_text, path_text
from phaseline.errors import ConfigurationError, Fault, UnreachableFileError

_TAGS = "tag:yaml.org,2002:"
_MERGE = f"{_TAGS}merge"
_BASES = {"0x": 16, "0o": 8, "0b": 2}
_MOST_DIGITS = 400
"""Characters of a number: 1e308 has 309 digits, and nobody means one that is longer."""


def read_file(path: Path) -> Node:
    """Reads a session file.

    Raises:
        ConfigurationError: It cannot be read, is no YAML, or repeats a key; all of its faults.
    """
    text = _read_text(path)
    node = read_text(text, lambda line: f"{path}:{line}")
    if node is None:
        raise _fault(str(path), "is empty", "It must hold at least session, model and phases.")
    if node.mapping is None:
        raise _fault(
            node.location,
            f"is {found_text(node.plain())}; it must be a section of keys and values",
            "Begin it with `session:`, as configs/quickstart.yaml does.",
        )
    return node


def read_text(
    text: str,
    locate: Callable[[int], str],
    origin: Loc = (),
    *,
    most_values: int = MAX_VALUES,
) -> Node | None:
    """Reads one YAML document.

    Args:
        text: The document.
        locate: The location to report for a line, counted from 1.
        origin: The path that the document's root has in the configuration.
        most_values: Sections, lists and values that it may hold.

    Returns:
        The root, or None if there is nothing but comments.

    Raises:
        ConfigurationError: It is no YAML, repeats a key, has a value of no plain kind, or is
            larger or deeper than a session can be.
    """
    try:
        root = compose(text, most_values)
    except NestingError as error:
        raise _too_deep(locate(error.line), origin) from None
    except BoundError as error:
        raise _too_many(locate(error.line), most_values, origin) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"holds the character {error.character!r}, which YAML does not allow"
        raise _fault(locate(line), problem, "Remove it.", origin) from None
    except MarkedYAMLError as error:
        raise _syntax_fault(error, locate, origin) from None
    except YAMLError as error:
        raise _fault(locate(1), f"is no YAML: {error}", "Correct the syntax.", origin) from None
    if root is None:
        return None
    reading = _Reading(locate, origin, most_values)
    node = reading.convert(root, origin, root.start_mark.line)
    if reading.faults:
        raise ConfigurationError(reading.faults)
    return node


@dataclass
class _Reading:
    """The conversion of one document, collecting what is wrong with it."""

    locate: Callable[[int], str]
    root: Loc
    most_values: int
    faults: list[Fault] = field(default_factory=list)
    open_nodes: list[YamlNode] = field(default_factory=list)
    num_values: int = 0

    def convert(self, node: YamlNode, origin: Loc, line: int) -> Node:
        """The tree of a YAML node; `line` is that of its key, counted from 0."""
        location = self.locate(line + 1)
        self._count(node, location)
        if isinstance(node, ScalarNode):
            return Node(self._scalar(node, origin, location), location, origin)
        if node in self.open_nodes:
            self._add(origin, location, "is an alias of a section around it", "Write it out.")
            return Node(None, location, origin)
        self.open_nodes.append(node)
        if isinstance(node, SequenceNode):
            members = [
                self.convert(item, (*origin, idx), item.start_mark.line)
                for idx, item in enumerate(node.value)
            ]
            converted = Node(members, location, origin)
        else:
            assert isinstance(node, MappingNode)
            converted = Node(self._mapping(node, origin), location, origin)
        self.open_nodes.pop()
        return converted

    def _count(self, node: YamlNode, location: str) -> None:
        """An alias is written once and read wherever it stands, so a few lines can hold billions."""
        self.num_values += 1
        if self.num_values > self.most_values:
            raise _too_many(location, self.most_values, self.root)
        if len(self.open_nodes) > MAX_DEPTH and node not in self.open_nodes:
            raise _too_deep(location, self.root)

    def _mapping(self, node: MappingNode, origin: Loc) -> dict[str, Node]:
        members: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line
            if key_node.tag == _MERGE:
                merged = {**self._merged(value_node, origin, line), **merged}
                continue
            key = key_node.value
            if not isinstance(key_node, ScalarNode):
                self._add(origin, self.locate(line + 1), "has a key that is no text", "Use a name.")
                continue
            if not self._is_clean(
                str(key), MAX_KEY, origin, self.locate(line + 1), "has a key that"
            ):
                continue
            if key in members:
                self._add(
                    (*origin, key),
                    self.locate(line + 1),
                    f"is given twice, first at {members[key].location}",
                    "Keep one of them.",
                )
                continue
            members[key] = self.convert(value_node, (*origin, key), line)
        return {**merged, **members}

    def _merged(self, node: YamlNode, origin: Loc, line: int) -> dict[str, Node]:
        parts = node.value if isinstance(node, SequenceNode) else [node]
        merged: dict[str, Node] = {}
        for part in parts:
            converted = self.convert(part, origin, line)
            if converted.mapping is None:
                location = self.locate(line + 1)
                problem = f"merges (`<<`) {found_text(converted.plain())}"
                self._add(origin, location, problem, "Merge a section, as `<<: *name`.")
                continue
            # The first of several wins, as YAML's merge key says.
            merged = {**converted.mapping, **merged}
        return merged

    def _scalar(self, node: ScalarNode, origin: Loc, location: str) -> Scalar:
        kind = str(node.tag).removeprefix(_TAGS)
        text = str(node.value)
        if not self._is_clean(text, MAX_TEXT, origin, location):
            return None
        if kind in ("int", "float") and len(text) > _MOST_DIGITS:
            problem = f"is a number of {len(text):,} characters; it may have {_MOST_DIGITS}"
            self._add(origin, location, problem, "Write a shorter number.")
            return None
        try:
            value = _SCALARS[kind](text)
        except KeyError:
            self._add(origin, location, f"has the tag {_short(str(node.tag))}", "Remove the tag.")
            return None
        except ValueError:
            problem = f"is {found_text(text)}, which is no {kind}"
            self._add(origin, location, problem, "Remove the tag.")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            problem = f"is {_short(text)}; it must be finite, and at most 1e308"
            self._add(origin, location, problem, "Write a finite number.")
            return None
        return value

    def _is_clean(self, text: str, most: int, origin: Loc, location: str, what: str = "") -> bool:
        """Whether a text is one that files, paths and terminals can hold; says so if not."""
        problem = ""
        if len(text) > most:
            problem = f"is a text of {len(text):,} characters; it may have {most:,}"
            fix = "Shorten it."
        elif "\0" in text:
            problem, fix = "holds the character \\0, which no path and no name can", "Remove it."
        elif not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            found = next(char for char in text if "\ud800" <= char <= "\udfff")
            problem = f"holds {ascii(found)[1:-1]}, which is half of a character"
            fix = "Write the character itself, or the escape of all of it, as \\U0001F600."
        if problem:
            self._add(origin, location, f"{what} {problem}".strip(), fix)
        return not problem

    def _add(self, origin: Loc, location: str, problem: str, fix: str) -> None:
        self.faults.append(Fault(path_text(origin), location, problem, fix))


def _integer(text: str) -> int:
    digits = text.replace("_", "").lower()
    sign, digits = (-1, digits[1:]) if digits.startswith("-") else (1, digits.lstrip("+"))
    base = _BASES.get(digits[:2])
    return sign * (int(digits[2:], base) if base else int(digits))


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


_SCALARS: dict[str, Callable[[str], Scalar]] = {
    "null": lambda _: None,
    "bool": _boolean,
    "int": _integer,
    "float": lambda text: float(
        text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan")
    ),
    "str": str,
    # A date is no kind of its own here, so `2026-01-31` is a text.
    "timestamp": str,
    # A bare `=`.
    "value": str,
}


def _read_text(path: Path) -> str:
    if path.is_dir():
        inside = _session_files(path)
        fix = f"Name a file in it, as {inside[0]}." if inside else "Name a session file."
        raise _fault(str(path), "is a folder; it must be a file", fix)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise _missing_file(path) from None
    except OSError as error:
        UnreachableFileError.require_lasting(error, path)
        reason = error.strerror or error
        fix = "Check the path and its permissions."
        raise _fault(str(path), f"cannot be read: {reason}", fix) from None
    if len(content) > MAX_FILE_BYTES:
        problem = f"is larger than a session file can be, {MAX_FILE_BYTES // 2**20} MiB"
        raise _fault(str(path), problem, "Name a session file.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"is not UTF-8: it holds the byte 0x{content[error.start]:02x}"
        raise _fault(f"{path}:{line}", problem, "Save the file as UTF-8.") from None


def _missing_file(path: Path) -> ConfigurationError:
    from difflib import get_close_matches

    there = {str(file): file for file in _session_files(path.parent)}
    near = get_close_matches(str(path), there, n=1, cutoff=0.7)
    hint = f"Did you mean {near[0]}?" if near else "Check the path and the folder you start in."
    return _fault(str(path), "does not exist", hint)


def _session_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix in (".yaml", ".yml"))


def _syntax_fault(
    error: MarkedYAMLError, locate: Callable[[int], str], origin: Loc
) -> ConfigurationError:
    problem = str(error.problem or error.context or "cannot be read")
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark is not None else 1
    if "'\\t'" in problem:
        return _fault(
            locate(line), "is indented with a tab", "YAML indents with spaces only.", origin
        )
    if "expected a single document" in str(error.context):
        return _fault(locate(line), "holds a second document (`---`)", "Keep one per file.", origin)
    if "mapping values are not allowed" in problem:
        return _fault(
            locate(line),
            "is no YAML: a `:` stands where no key can begin",
            "Check the indentation, and put texts that hold ': ' in quotes.",
            origin,
        )
    if "<block end>" in problem:
        return _fault(
            locate(line),
            "is no YAML: the line does not fit the indentation of those before it",
            "Align it with its neighbours, and put texts that hold quotes in other quotes.",
            origin,
        )
    problem = problem.replace("'<stream end>'", "the end of the file")
    opened = error.context_mark
    began = f" (what is open began at line {opened.line + 1})" if opened is not None else ""
    return _fault(
        locate(line),
        f"is no YAML: {problem}{began}",
        "Check brackets, quotes and indentation near this line.",
        origin,
    )


def _too_many(location: str, most_values: int, origin: Loc) -> ConfigurationError:
    return _fault(
        location,
        f"is more than can be read: with its aliases written out it has over {most_values:,} "
        "values",
        "Use fewer aliases (`*name`) and merges (`<<`), and patterns instead of lists.",
        origin,
    )


def _too_deep(location: str, origin: Loc) -> ConfigurationError:
    problem = f"is nested deeper than {MAX_DEPTH} levels"
    return _fault(location, problem, "Close brackets and sections that are left open.", origin)


def _short(text: str) -> str:
    """The beginning and the end of a text that may be endless."""
    return text if len(text) <= 60 else f"{text[:50]}...{text[-1]}"


def _fault(location: str, problem: str, fix: str, origin: Loc = ()) -> ConfigurationError:
    return ConfigurationError([Fault(path_text(origin), location, problem, fix)])
