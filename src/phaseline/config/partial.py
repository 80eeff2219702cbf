"""A configuration with holes where a setting could not be read.

The rules that span settings need sections. So that one fault of the schema does not hide
what they would find elsewhere, examples stand in for what is wrong, and are then taken out
again: a rule that looks at such a place stops there.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from phaseline.config.faults import MAX_FAULTS
from phaseline.config.schema import slot_at
from phaseline.config.section import Section
from phaseline.config.sections import Config
from phaseline.config.tree import Loc
from phaseline.config.yaml_reading import read_text

_MAX_ROUNDS = 8


def partial_config(plain: Any) -> Config | None:
    """The part of a configuration that can be read; None if too little is left of it.

    Args:
        plain: The merged tree as plain values; it is changed.
    """
    holes: set[Loc] = set()
    for _ in range(_MAX_ROUNDS):
        try:
            config = Config.model_validate_json(json.dumps(plain), strict=True)
        except ValidationError as error:
            if not isinstance(plain, dict):
                return None
            details = error.errors(include_url=False)
            if len(details) > MAX_FAULTS:
                return None
            for detail in details:
                if detail["type"] == "too_short" and detail["input"]:
                    # An echo of the members that were refused.
                    continue
                _stand_in(plain, detail)
                if detail["type"] != "extra_forbidden":
                    holes.add(detail["loc"])
        else:
            for hole in holes:
                _take_out(config, hole)
            return config
    return None


def _stand_in(plain: Any, detail: ErrorDetails) -> None:
    """Puts an example in place of a wrong or missing value, or removes what may be absent."""
    *above, key = detail["loc"]
    owner = plain
    for step in above:
        try:
            owner = owner[step]
        except (KeyError, IndexError, TypeError):
            return
    slot = slot_at(detail["loc"])
    example = slot.example if slot is not None and isinstance(key, str) else None
    if isinstance(owner, dict):
        owner.pop(key, None)
        if slot is not None and slot.field.is_required():
            owner[key] = _parse(example) if example is not None else {}
            if slot.is_list and example is None:
                owner[key] = [{}]
    elif isinstance(owner, list) and isinstance(key, int) and key < len(owner):
        owner[key] = {} if slot is not None and slot.section is not None else ""


def _parse(example: str) -> object:
    node = read_text(example, lambda _: "")
    return node.plain() if node is not None else None


def _take_out(config: Config, hole: Loc) -> None:
    """Removes a field, so that looking at it raises AttributeError."""
    owner: Any = config
    holder: tuple[Section, str] | None = None
    for key in hole:
        if isinstance(owner, Section) and isinstance(key, str):
            holder = (owner, key)
            # Already taken out by another hole above or beside it.
            if key not in owner.__dict__:
                return
            owner = owner.__dict__[key]
        elif isinstance(owner, tuple) and isinstance(key, int) and key < len(owner):
            owner = owner[key]
        else:
            break
    if holder is not None:
        section, field = holder
        section.__dict__.pop(field, None)
