"""From what a person writes to what the schema knows: `defaults` and shorthands."""

from __future__ import annotations

from phaseline.config.section import Section
from phaseline.config.sections import PhaseSection
from phaseline.config.tree import Node, found_text, path_text
from phaseline.errors import Fault

_SECTIONS = frozenset(
    key
    for key, field in PhaseSection.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
)
"""What of a phase is a section, which a default is merged under."""

# Arguments belong to what is named beside them: naming another one drops the default's.
_NAMED_BY = {"optimizer": ("name",), "data": ("source", "sources")}
_MEANT_FOR_ONE = ("arguments", "filters")


def merge_defaults(root: Node) -> tuple[Node, list[Fault]]:
    """Merges `defaults` under every phase and expands `data.source`.

    Mappings are merged key by key; anything else that a phase says replaces the default.

    Returns:
        The tree as the schema knows it, and what is wrong with `defaults` or the shorthand.
    """
    members = root.mapping or {}
    defaults, phases = members.get("defaults"), members.get("phases")
    faults = _faults_of_defaults(defaults) if defaults is not None else []
    kept = {key: node for key, node in members.items() if key != "defaults"}
    if phases is not None and phases.items is not None:
        base = _without_name(defaults) if defaults is not None else None
        merged = [
            _expand_source(_merge(base, phase) if base is not None else phase, faults)
            for phase in phases.items
        ]
        kept["phases"] = Node(merged, phases.location, phases.origin)
    # The same default may have been met in every phase.
    return Node(kept, root.location, root.origin), list(dict.fromkeys(faults))


def _without_name(defaults: Node) -> Node:
    kept = {key: node for key, node in (defaults.mapping or {}).items() if key != "name"}
    return Node(kept, defaults.location, defaults.origin)


def _faults_of_defaults(defaults: Node) -> list[Fault]:
    if defaults.mapping is None:
        problem = f"is {found_text(defaults.plain())}; it must be a section"
        fix = "Put settings of phases in it, as `optimizer: {lr: 3e-4}`, or remove the key."
        return [Fault("defaults", defaults.location, problem, fix)]
    faults = [
        # Merged under a phase that says more, it would have no effect and nobody would hear of it.
        Fault(
            f"defaults.{key}",
            node.location,
            f"is {found_text(node.plain())}; it must be a section",
            f"Write its settings, as `{key}: {{...}}`, or remove it.",
        )
        for key, node in defaults.mapping.items()
        if key in _SECTIONS and node.mapping is None and node.value is not None
    ]
    name = defaults.child("name")
    if name is not None:
        problem = f"is {found_text(name.plain())}, but every phase needs a name of its own"
        faults.append(Fault("defaults.name", name.location, problem, "Move it into a phase."))
    return faults


def _merge(default: Node, own: Node, section: str = "") -> Node:
    """`own` laid over `default`; the place of the result is that of `own`."""
    if default.mapping is None or own.mapping is None:
        return own
    dropped = _dropped_defaults(default.mapping, own.mapping, section)
    merged = {key: node for key, node in default.mapping.items() if key not in dropped}
    for key, node in own.mapping.items():
        below = merged.get(key)
        merged[key] = node if below is None else _merge(below, node, key)
    return Node(merged, own.location, own.origin)


def _dropped_defaults(default: dict[str, Node], own: dict[str, Node], section: str) -> set[str]:
    named_by = _NAMED_BY.get(section, ())
    if section == "data":
        # A phase that names its sources in either form replaces them in both.
        return {*named_by, *_MEANT_FOR_ONE} if any(key in own for key in named_by) else set()
    renamed = any(
        key in own and key in default and own[key].value != default[key].value for key in named_by
    )
    return {*_MEANT_FOR_ONE} if renamed else set()


def _expand_source(phase: Node, faults: list[Fault]) -> Node:
    """`data: {source: NAME, arguments: ...}` as the only entry of `data.sources`."""
    data = phase.child("data")
    if phase.mapping is None or data is None or data.mapping is None:
        return phase
    source = data.mapping.get("source")
    if source is None:
        return phase
    if "sources" in data.mapping:
        problem = "is given together with `sources`, which says the same"
        path = path_text(source.origin)
        faults.append(Fault(path, source.location, problem, "Keep one of them."))
        return _with_data(phase, data, data.mapping["sources"])
    entry = {"source": source}
    entry |= {key: data.mapping[key] for key in _MEANT_FOR_ONE if key in data.mapping}
    sources = [Node(entry, source.location, data.origin)]
    return _with_data(phase, data, Node(sources, source.location, source.origin))


def _with_data(phase: Node, data: Node, sources: Node) -> Node:
    """The phase with its sources written in the long form."""
    members = data.mapping or {}
    kept = {key: node for key, node in members.items() if key not in ("source", *_MEANT_FOR_ONE)}
    expanded = Node({**kept, "sources": sources}, data.location, data.origin)
    return Node({**(phase.mapping or {}), "data": expanded}, phase.location, phase.origin)
