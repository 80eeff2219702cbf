"""Mixins are small verbs over one typed thing: no state, no constructor, no entanglement."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from architecture.source_tree import PACKAGE, classes, name_of, parse

MIXINS = PACKAGE / "training" / "phases" / "mixins"
ROOT_CLASS = "PhaseHost"
MAX_LINES = 120
MAX_PUBLIC_METHODS = 5
PROMISES = ("Needs:", "Gives:", "Ranks:", "Collectives:")


def _mixins() -> list[ast.ClassDef]:
    return [
        node
        for path in sorted(MIXINS.glob("*.py"))
        for node in classes(parse(path))
        if node.name != ROOT_CLASS and node.name.endswith("Mixin")
    ]


def _methods(mixin: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in mixin.body if isinstance(node, ast.FunctionDef)}


def _names_on_self(node: ast.AST) -> Iterator[ast.Attribute]:
    for child in ast.walk(node):
        if (
            isinstance(child, ast.Attribute)
            and isinstance(child.value, ast.Name)
            and child.value.id == "self"
        ):
            yield child


def _faults(mixin: ast.ClassDef) -> list[str]:
    methods = _methods(mixin)
    faults = []
    if "__init__" in methods:
        faults.append("defines __init__")
    if [base.id for base in mixin.bases if isinstance(base, ast.Name)] != [ROOT_CLASS]:
        faults.append(f"must inherit {ROOT_CLASS} and nothing else")
    if (mixin.end_lineno or 0) - mixin.lineno + 1 > MAX_LINES:
        faults.append(f"is longer than {MAX_LINES} lines")
    if sum(not name.startswith("_") for name in methods) > MAX_PUBLIC_METHODS:
        faults.append(f"has more than {MAX_PUBLIC_METHODS} public methods")
    docstring = ast.get_docstring(mixin) or ""
    faults += [f"docstring lacks {promise!r}" for promise in PROMISES if promise not in docstring]
    for attribute in _names_on_self(mixin):
        if not isinstance(attribute.ctx, ast.Load):
            faults.append(f"line {attribute.lineno} assigns self.{attribute.attr}")
        elif attribute.attr not in {"runtime", *methods}:
            faults.append(f"line {attribute.lineno} uses self.{attribute.attr} of another class")
    return faults


def test_mixin_folder_holds_what_phases_share() -> None:
    files = {path.name for path in MIXINS.glob("*.py")}
    assert {"host.py", "metrics.py", "progress.py", "component_setup.py"} <= files


def test_every_mixin_keeps_the_rules() -> None:
    faults = {mixin.name: _faults(mixin) for mixin in _mixins()}
    assert {name: found for name, found in faults.items() if found} == {}


def test_host_alone_has_a_constructor() -> None:
    owners = [
        f"{name_of(path)} {node.name}"
        for path in sorted(MIXINS.glob("*.py"))
        for node in classes(parse(path))
        if "__init__" in _methods(node)
    ]
    assert owners == [f"{name_of(MIXINS / 'host.py')} {ROOT_CLASS}"]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("def __init__(self) -> None: ...", "defines __init__"),
        ("def f(self) -> None:\n        self.step = 1", "assigns self.step"),
        ("def f(self) -> None:\n        self.log()", "uses self.log of another class"),
    ],
)
def test_faults_names_the_fault_when_a_mixin_breaks_a_rule(body: str, fault: str) -> None:
    docstring = "\n    ".join(PROMISES)
    source = f'class AMixin(PhaseHost):\n    """Does.\n    {docstring}"""\n    {body}\n'
    mixin = ast.parse(source).body[0]
    assert isinstance(mixin, ast.ClassDef)
    assert [found for found in _faults(mixin) if fault in found]
