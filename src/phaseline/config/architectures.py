"""What transformers' configuration classes take, read from their source and not imported.

Importing any of them imports torch, which takes seconds. Their source says the same: fields with
their types and defaults, other names for them, and what a class does with what is no field. What
cannot be read there is not judged: building the model judges it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

_AUTO = ("models", "auto")
_CONFIGS, _SPECIAL = "CONFIG_MAPPING_NAMES", "SPECIAL_MODEL_TYPE_TO_MODULE_NAME"
_HEADS = {
    "language": ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",),
    "reward": ("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",),
    "classes": (
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    ),
}

_BASES = ("PreTrainedConfig", "PretrainedConfig")

Module = tuple[str, ...]
"""A module of transformers, as `("models", "llama", "configuration_llama")`."""


@dataclass
class Architecture:
    """A configuration class.

    Attributes:
        name: Of the class.
        kinds: The type of each field, as its source writes it.
        defaults: Of those fields whose default is written as a plain value.
        aliases: Other names of fields, each with the field's.
        names: What else it takes: keys that its methods look for.
        multiples: Pairs of fields the first of which must be a multiple of the second.
        is_strict: Whether it refuses values of another type.
    """

    name: str
    kinds: dict[str, ast.expr] = field(default_factory=dict)
    defaults: dict[str, object] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    multiples: set[tuple[str, str]] = field(default_factory=set)
    is_strict: bool = False

    def takes(self, key: str) -> bool:
        """Whether a key of the configuration reaches anything."""
        return key in {*self.kinds, *self.aliases, *self.aliases.values()} or key in self.names

    def kind_of(self, key: str) -> ast.expr | None:
        """The type of a field, by any of its names; None if it is not known."""
        return self.kinds.get(self.aliases.get(key, key)) or self.kinds.get(key)

    def default_of(self, key: str) -> object:
        """The default of a field, by any of its names; None if it is not known."""
        return self.defaults.get(self.aliases.get(key, key), self.defaults.get(key))

    def key_of(self, values: Mapping[str, object], key: str) -> str:
        """The name that a configuration uses for a field, or else the class's own."""
        own = self.aliases.get(key, key)
        others = (alias for alias, name in self.aliases.items() if name == own)
        return next((name for name in (own, *others) if name in values), own)

    def value(self, values: Mapping[str, object], key: str) -> object:
        """A field as a configuration sets it by any of its names, or else its default."""
        name = self.key_of(values, key)
        return values[name] if name in values else self.default_of(key)


def model_types() -> tuple[str, ...]:
    """Every architecture that the installed transformers has; empty if that cannot be read."""
    return tuple(_mapping(_CONFIGS))


def is_architecture(model_type: str) -> bool:
    """Whether transformers has an architecture; True where its tables cannot be read."""
    known, root = _mapping(_CONFIGS), _root()
    if not known or root is None or model_type in known:
        return True
    folder = model_type.replace("-", "_")
    return folder.isidentifier() and (root / "models" / folder).is_dir()


def has_head(model_type: str, kind: str) -> bool:
    """Whether an architecture can end in what phases need; True where that cannot be read.

    Args:
        model_type: As in `model.config`.
        kind: `language`, `reward` or `classes`.
    """
    mappings = [_mapping(name) for name in _HEADS[kind]]
    return not any(mappings) or any(model_type in mapping for mapping in mappings)


@lru_cache(maxsize=8)
def find_architecture(model_type: str) -> Architecture | None:
    """The configuration class of an architecture; None if it cannot be read."""
    name = _mapping(_CONFIGS).get(model_type)
    if name is None:
        return None
    folder = _mapping(_SPECIAL).get(model_type) or model_type.replace("-", "_")
    found = Architecture(name)
    module = ("models", folder, f"configuration_{folder}")
    return found if _collect(module, name, found) else None


@lru_cache(maxsize=1)
def activations() -> tuple[str, ...]:
    """Names of activation functions; empty if they cannot be read."""
    for node in _body(("activations",)):
        if isinstance(node, ast.Assign) and _targets(node) == ["ACT2CLS"]:
            keys = node.value.keys if isinstance(node.value, ast.Dict) else []
            return tuple(str(key.value) for key in keys if isinstance(key, ast.Constant))
    return ()


def _collect(module: Module, name: str, found: Architecture) -> bool:
    """Adds a class and those that it is built on; False if its source is not where it should be."""
    body = _body(module)
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for base in reversed(node.bases):
                if isinstance(base, ast.Name):
                    _collect(*_home_of(base.id, module, body), found)
            _add_class(node, found)
            return True
        if isinstance(node, ast.Assign) and name in _targets(node):
            # A class may have a second name.
            is_name = isinstance(node.value, ast.Name) and node.value.id != name
            return is_name and _collect(module, ast.unparse(node.value), found)
    return False


def _home_of(name: str, module: Module, body: list[ast.stmt]) -> tuple[Module, str]:
    """Where a name that a module uses is defined."""
    if name in _BASES:
        return ("configuration_utils",), name
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.level:
            for one in node.names:
                if name in (one.asname, one.name):
                    parts = tuple(node.module.split(".")) if node.module else ()
                    return (*module[: len(module) - node.level], *parts), one.name
    return module, name


def _add_class(node: ast.ClassDef, found: Architecture) -> None:
    # Only the class itself counts: the base of all of them is strict or is not, like them.
    found.is_strict = any("strict" in ast.unparse(one) for one in node.decorator_list)
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            if "ClassVar" not in ast.unparse(one.annotation):
                found.kinds[one.target.id] = one.annotation
                _add_default(one.target.id, one.value, found)
        elif isinstance(one, ast.Assign):
            for target in _targets(one):
                if target == "attribute_map":
                    aliases = _literal(one.value)
                    found.aliases |= aliases if isinstance(aliases, dict) else {}
                elif target in found.kinds:
                    _add_default(target, one.value, found)
        elif isinstance(one, ast.FunctionDef):
            _add_method(one, found)


def _add_default(name: str, value: ast.expr | None, found: Architecture) -> None:
    if isinstance(value, ast.Call):
        # As `interval(min=0.0)(default=0.02)`.
        value = next((one.value for one in value.keywords if one.arg == "default"), None)
    default = _literal(value)
    found.defaults.pop(name, None)
    if default is not None:
        found.defaults[name] = default


def _add_method(method: ast.FunctionDef, found: Architecture) -> None:
    """What a method looks for among the keys that are no fields, and what it sets."""
    found.names.add(method.name)
    if method.name == "__init__":
        arguments = [*method.args.args, *method.args.kwonlyargs]
        found.names |= {one.arg for one in arguments}
        given = method.args.defaults
        for one, value in zip(arguments[-len(given) :] if given else [], given, strict=False):
            _add_default(one.arg, value, found)
    for node in ast.walk(method):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.names.add(node.value)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.names.add(node.attr)
        elif isinstance(node, ast.If):
            pair = _multiple(node)
            found.multiples |= {pair} if pair is not None else set()


def _multiple(node: ast.If) -> tuple[str, str] | None:
    """The fields of `if self.a % self.b != 0: raise ...`."""
    test = node.test
    if not (isinstance(test, ast.Compare) and isinstance(test.left, ast.BinOp)):
        return None
    is_modulo = isinstance(test.left.op, ast.Mod) and isinstance(test.ops[0], ast.NotEq)
    sides = (test.left.left, test.left.right)
    if is_modulo and isinstance(node.body[0], ast.Raise):
        names = [side.attr for side in sides if isinstance(side, ast.Attribute)]
        return (names[0], names[1]) if len(names) == 2 else None
    return None


@lru_cache(maxsize=8)
def _mapping(name: str) -> dict[str, str]:
    """A table of transformers' own, from architectures to names; empty if it is not found."""
    found: dict[str, str] = {}
    for module in ("auto_mappings", "configuration_auto", "modeling_auto"):
        for node in _body((*_AUTO, module)):
            is_update = isinstance(node, ast.Expr) and ast.unparse(node).startswith(
                f"{name}.update("
            )
            if is_update or (isinstance(node, ast.Assign) and name in _targets(node)):
                for part in ast.walk(node):
                    literal = _literal(part) if isinstance(part, (ast.Dict, ast.List)) else None
                    if isinstance(literal, (dict, list)):
                        found |= {str(key): str(one) for key, one in dict(literal).items()}
    return found


@lru_cache(maxsize=32)
def _body(module: Module) -> list[ast.stmt]:
    root = _root()
    if root is None:
        return []
    try:
        return ast.parse(root.joinpath(*module).with_suffix(".py").read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []


@lru_cache(maxsize=1)
def _root() -> Path | None:
    try:
        spec = find_spec("transformers")
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _targets(node: ast.Assign) -> list[str]:
    return list(_names(node))


def _names(node: ast.Assign) -> Iterator[str]:
    for target in node.targets:
        if isinstance(target, ast.Name):
            yield target.id


def _literal(value: ast.expr | None) -> object:
    """A plain value; None if it is computed."""
    try:
        return None if value is None else ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError):
        return None
