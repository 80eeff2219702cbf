"""What the sections say about a place in the configuration, in words for messages."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from phaseline.config.section import Section
from phaseline.config.sections import Config, PhaseSection
from phaseline.config.tree import Loc
from phaseline.units import DURATION_FORM, INTERVAL_FORM, Duration, Interval

_BOUNDS = (
    (annotated_types.Gt, "gt", "greater than {}"),
    (annotated_types.Ge, "ge", "at least {}"),
    (annotated_types.Lt, "lt", "less than {}"),
    (annotated_types.Le, "le", "at most {}"),
)
_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict: "a section of keys and values",
}


_FORMS = {Duration: DURATION_FORM, Interval: INTERVAL_FORM}


@dataclass(frozen=True)
class Slot:
    """A place that may hold a value.

    Attributes:
        kind: The type of what stands there.
        bounds: What is known about it besides the type.
        field: The field that it is or that it is a member of.
    """

    kind: Any
    bounds: tuple[Any, ...]
    field: FieldInfo

    @property
    def allowed(self) -> str:
        """What may stand there, completing "it must be ..."."""
        extra = self.field.json_schema_extra
        if isinstance(extra, dict) and "allowed" in extra:
            return str(extra["allowed"])
        return _describe(self.kind, self.bounds)

    @property
    def example(self) -> str | None:
        """A value as YAML would write it; None if no field names one."""
        return str(self.field.examples[0]) if self.field.examples else None

    @property
    def section(self) -> type[Section] | None:
        """The section that stands there; None if it is a plain value."""
        return _section_in(self.kind)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that are allowed, if only some are."""
        kind = _without_none(self.kind)
        return tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()

    @property
    def is_list(self) -> bool:
        """Whether a list stands there."""
        return get_origin(_without_none(self.kind)) is tuple

    @property
    def is_number(self) -> bool:
        """Whether it is a number of any kind."""
        kind = _without_none(self.kind)
        return (get_args(kind)[0] if get_origin(kind) is Annotated else kind) in (int, float)

    @property
    def is_duration(self) -> bool:
        """Whether it is a length of training."""
        return _without_none(self.kind) in (Duration, Interval)

    @property
    def accepts_text(self) -> bool:
        """Whether it is a text of any kind."""
        return _without_none(self.kind) is str


def slot_at(loc: Loc) -> Slot | None:
    """The slot at a path of the configuration; None if the schema has no such place."""
    root = FieldInfo(annotation=Config)
    slot = Slot(Config, (), root)
    for key in loc:
        section = slot.section
        if isinstance(key, int):
            arguments = get_args(_without_none(slot.kind))
            if get_origin(_without_none(slot.kind)) is not tuple or not arguments:
                return None
            slot = Slot(arguments[0], (), slot.field)
        elif section is not None and key in section.model_fields:
            field = section.model_fields[key]
            slot = Slot(field.annotation, tuple(field.metadata), field)
        else:
            return None
    return slot


def keys_at(loc: Loc) -> tuple[str, ...]:
    """The keys that the section at a path may have."""
    slot = slot_at(loc)
    keys = tuple(slot.section.model_fields) if slot is not None and slot.section else ()
    # `defaults` is merged away before the schema sees it.
    return (*keys, "defaults") if not loc else keys


@lru_cache(maxsize=1)
def homes() -> dict[str, tuple[str, ...]]:
    """For every key, the sections that have it, as `phases[].optimizer`."""
    found: dict[str, list[str]] = {}
    for path, section in _sections("", Config):
        for key in section.model_fields:
            found.setdefault(key, []).append(path)
    return {key: tuple(paths) for key, paths in found.items()}


def required_keys(section: type[Section]) -> list[str]:
    """The keys that a section cannot do without."""
    return [key for key, field in section.model_fields.items() if field.is_required()]


def _sections(path: str, section: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    yield path, section
    for key, field in section.model_fields.items():
        below = _section_in(field.annotation)
        if below is not None:
            is_list = get_origin(_without_none(field.annotation)) is tuple
            member = "[]" if is_list else ""
            yield from _sections(f"{path}.{key}{member}" if path else f"{key}{member}", below)


def _section_in(kind: Any) -> type[Section] | None:
    """The section that a type is, or is a list of."""
    kind = _without_none(kind)
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _describe(kind: Any, bounds: tuple[Any, ...]) -> str:
    if get_origin(kind) is Annotated:
        return _describe(get_args(kind)[0], (*get_args(kind)[1:], *bounds))
    if _is_union(kind):
        members = [member for member in get_args(kind) if member is not type(None)]
        inner = " or ".join(_describe(member, bounds) for member in members)
        return f"{inner}, or null" if type(None) in get_args(kind) else inner
    if get_origin(kind) is Literal:
        words = [str(word) for word in get_args(kind)]
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    if kind in _FORMS:
        return _FORMS[kind]
    if get_origin(kind) is tuple:
        return f"a list of {_describe_members(get_args(kind)[0])}{_describe_length(bounds)}"
    section = _section_in(kind)
    if section is not None:
        return f"a section with the keys {', '.join(section.model_fields)}"
    return f"{_WORDS[get_origin(kind) or kind]}{_describe_bounds(bounds)}"


def _describe_members(kind: Any) -> str:
    return {str: "texts", PhaseSection: "phases"}.get(kind, "sections")


def _describe_bounds(bounds: tuple[Any, ...]) -> str:
    flat = [inner for bound in bounds for inner in _ungroup(bound)]
    words = [
        text.format(_number_text(getattr(bound, attribute)))
        for kind, attribute, text in _BOUNDS
        for bound in flat
        if isinstance(bound, kind)
    ]
    if not words:
        return ""
    of = "of " if words[0].startswith("at ") else ""
    return f" {of}{' and '.join(words)}"


def _number_text(bound: float) -> str:
    if isinstance(bound, int) or (bound.is_integer() and abs(bound) < 1e9):
        return str(int(bound))
    return f"{bound:g}"


def _ungroup(bound: Any) -> list[Any]:
    return list(bound.metadata) if isinstance(bound, FieldInfo) else [bound]


def _describe_length(bounds: tuple[Any, ...]) -> str:
    least = [bound.min_length for bound in bounds if isinstance(bound, annotated_types.MinLen)]
    most = [bound.max_length for bound in bounds if isinstance(bound, annotated_types.MaxLen)]
    words = [f"at least {number}" for number in least] + [f"at most {number}" for number in most]
    return f" with {' and '.join(words)}" if words else ""


def _without_none(kind: Any) -> Any:
    if not _is_union(kind):
        return kind
    members = [member for member in get_args(kind) if member is not type(None)]
    return members[0] if len(members) == 1 else kind


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)
