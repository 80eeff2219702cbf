"""Types as Python source writes them: what they accept, and in words."""

from __future__ import annotations

import ast

_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float,),
    "str": (str,),
    "bool": (bool,),
    "list": (list,),
    "List": (list,),
    "Sequence": (list, str),
    "dict": (dict,),
    "Dict": (dict,),
    "None": (type(None),),
    # Only code makes one, from a list that a file gives.
    "tuple": (list,),
    "Tuple": (list,),
}
_WORDS = {
    "int": "a whole number",
    "float": "a number with a decimal point",
    "str": "text",
    "bool": "true or false",
    "None": "null",
    "dict": "a section",
}


def accepts(kind: ast.expr, value: object) -> bool:
    """Whether a value of a file is of a type; True where the type is none of Python's own."""
    if isinstance(kind, ast.BinOp):
        return accepts(kind.left, value) or accepts(kind.right, value)
    if isinstance(kind, ast.Subscript):
        return _accepts_members(ast.unparse(kind.value).rpartition(".")[2], kind.slice, value)
    types = _KINDS.get(ast.unparse(kind))
    if types is None:
        return True
    # To Python true is a whole number.
    return isinstance(value, types) and (not isinstance(value, bool) or bool in types)


def describe(kind: ast.expr) -> str:
    """What a type accepts, completing "it must be ..."; empty if it is none of Python's own."""
    words = list(dict.fromkeys(_describe(kind)))
    if "" in words:
        return ""
    if "a whole number" in words and _WORDS["float"] in words:
        words = ["a number", *(w for w in words if w not in ("a whole number", _WORDS["float"]))]
    return " or ".join(words)


def _accepts_members(outer: str, inner: ast.expr, value: object) -> bool:
    members = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if outer == "Optional":
        return value is None or accepts(inner, value)
    if outer == "Union":
        return any(accepts(one, value) for one in members)
    if outer == "Literal":
        allowed = [one.value for one in members if isinstance(one, ast.Constant)]
        return any(type(one) is type(value) and one == value for one in allowed)
    if outer not in _KINDS:
        return True
    if not isinstance(value, _KINDS[outer]):
        return False
    if isinstance(value, list) and outer not in ("tuple", "Tuple"):
        return all(accepts(members[0], one) for one in value)
    return True


def _describe(kind: ast.expr) -> list[str]:
    if isinstance(kind, ast.BinOp):
        return [*_describe(kind.left), *_describe(kind.right)]
    if isinstance(kind, ast.Subscript):
        outer = ast.unparse(kind.value).rpartition(".")[2]
        members = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        if outer == "Optional":
            return [*_describe(kind.slice), "null"]
        if outer == "Union":
            return [word for one in members for word in _describe(one)]
        if outer == "Literal":
            return [str(one.value) for one in members if isinstance(one, ast.Constant)]
        return [_WORDS.get(outer.lower(), "a list" if outer in _KINDS else "")]
    name = ast.unparse(kind)
    return [
        _WORDS.get(name.lower() if name != "None" else name, "a list" if name in _KINDS else "")
    ]
