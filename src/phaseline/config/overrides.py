"""Settings from the command line: `-o phases[pretrain].optimizer.lr=1e-3`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from phaseline.config.bounded_yaml import MAX_DEPTH
from phaseline.config.tree import Loc, Node, found_text, one_line, path_text
from phaseline.config.yaml_reading import read_text
from phaseline.errors import ConfigurationError, Fault

_SEGMENT = re.compile(r"(?P<key>[A-Za-z_][A-Za-z0-9_-]*)(?P<members>(\[[^\[\]]*\])*)")
_FORM = "Write it as -o phases[pretrain].optimizer.lr=1e-3."
_EACH = "*"
_MOST_SHOWN = 200
_LONGEST_PATH = 2000


def apply_overrides(root: Node, overrides: Sequence[str]) -> tuple[Node, list[Fault]]:
    """Sets what the overrides say, in their order, as if the file said it.

    Args:
        root: The file's tree.
        overrides: Each `path=value`, the value being YAML. A member of a list is addressed by
            index (`[0]`, `[-1]`), all of them by `[*]`, a phase also by its name.

    Returns:
        The changed tree, and what is wrong with the overrides that could not be applied.
    """
    faults: list[Fault] = []
    for override in overrides:
        try:
            root = _apply(root, override)
        except ConfigurationError as error:
            faults.extend(error.faults)
    return root, faults


def _apply(root: Node, override: str) -> Node:
    path, equals, value = override.partition("=")
    if not equals:
        raise _fault(override, "", "has no `=`", _FORM)
    if len(path) > _LONGEST_PATH:
        raise _fault(override, "", f"has a path of {len(path):,} characters", _FORM)
    keys = _parse(path.strip(), override)
    if len(keys) > MAX_DEPTH:
        raise _fault(override, "", f"is nested deeper than {MAX_DEPTH} levels", _FORM)
    return _set(root, keys, (), value, override)


def _parse(path: str, override: str) -> tuple[str, ...]:
    """`a.b[0]` as `a`, `b`, `[0]`."""
    keys: list[str] = []
    for segment in re.split(r"\.(?![^\[]*\])", path):
        match = _SEGMENT.fullmatch(segment)
        if match is None:
            problem = (
                f"holds {found_text(segment)}, which is no key" if path else "names no setting"
            )
            raise _fault(override, path, problem, _FORM)
        keys.append(match["key"])
        keys.extend(re.findall(r"\[[^\[\]]*\]", match["members"]))
    return tuple(keys)


def _set(node: Node | None, keys: tuple[str, ...], loc: Loc, value: str, override: str) -> Node:
    location = _location(override)
    if not keys:
        return read_text(value, lambda _: location, loc) or Node(None, location, loc)
    key, rest = keys[0], keys[1:]
    if key.startswith("["):
        return _set_member(node, key[1:-1].strip(), rest, loc, value, override)
    if node is not None and node.value is not None and node.mapping is None:
        found = found_text(node.plain())
        problem = f"is {found} ({node.location}), which has no key `{key}`"
        raise _fault(override, path_text(loc), problem, "Correct the path of the override.")
    members = (node.mapping or {}) if node is not None else {}
    changed = _set(members.get(key), rest, (*loc, key), value, override)
    # What an override creates has no line of its own.
    place = node.location if node is not None and node.value is not None else location
    return Node({**members, key: changed}, place, loc)


def _set_member(
    node: Node | None, index: str, rest: tuple[str, ...], loc: Loc, value: str, override: str
) -> Node:
    path = path_text(loc)
    if node is None or node.items is None:
        found = f"is {found_text(node.plain())}" if node is not None else "is not in the file"
        problem = f"{found}, so it has no member [{index}]"
        fix = "Set the whole list, or address the place in the file that holds it."
        raise _fault(override, path, problem, fix)
    members = list(node.items)
    for idx in _select(members, index, path, override):
        members[idx] = _set(members[idx], rest, (*loc, idx), value, override)
    return Node(members, node.location, node.origin)


def _select(members: list[Node], index: str, path: str, override: str) -> list[int]:
    """Indexes of the members that `[index]` addresses."""
    if index == _EACH:
        return list(range(len(members)))
    if re.fullmatch(r"-?[0-9]{1,9}", index):
        idx = int(index)
        if -len(members) <= idx < len(members):
            return [idx % len(members)]
        fix = f"It has {len(members)}: the first is [0], the last [-1]."
        raise _fault(override, path, f"has no member [{index}]", fix)
    names = [_name(member) for member in members]
    found = [idx for idx, name in enumerate(names) if name == index]
    if not found:
        known = [name for name in names if name is not None]
        near = get_close_matches(index, known, n=1)
        listed = f"Its names are {', '.join(known)}." if known else "Use an index, as [0]."
        fix = f"Did you mean [{near[0]}]?" if near else listed
        raise _fault(override, path, f"has no member named {found_text(index)}", fix)
    return found


def _name(member: Node) -> str | None:
    name = member.child("name")
    return name.value if name is not None and isinstance(name.value, str) else None


def _location(override: str) -> str:
    shown = override if len(override) <= _MOST_SHOWN else f"{override[:_MOST_SHOWN]}..."
    return f"-o {one_line(shown)}"


def _fault(override: str, path: str, problem: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Fault(one_line(path), _location(override), problem, fix)])
