"""Words for what the schema refuses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from phaseline.config.schema import Slot, homes, keys_at, required_keys, slot_at
from phaseline.config.tree import Loc, Node, found_text, path_text
from phaseline.errors import Fault
from phaseline.units import Unit

# What other trainers call it, where no likeness of letters leads to our name.
_FOREIGN_NAMES = {
    "learning_rate": "lr",
    "peak_lr": "lr",
    "max_lr": "lr",
    "min_lr": "final_lr_frac",
    "min_lr_ratio": "final_lr_frac",
    "steps": "duration",
    "max_steps": "duration",
    "num_steps": "duration",
    "epochs": "duration",
    "num_epochs": "duration",
    "num_train_epochs": "duration",
    "tokens": "duration",
    "warmup_steps": "warmup",
    "warmup_ratio": "warmup",
    "decay_steps": "decay",
    "batch_size": "global_size",
    "global_batch_size": "global_size",
    "train_batch_size": "global_size",
    "micro_batch_size": "micro_size",
    "per_device_train_batch_size": "micro_size",
    "seq_len": "sequence_length",
    "seq_length": "sequence_length",
    "max_length": "sequence_length",
    "max_seq_length": "sequence_length",
    "block_size": "sequence_length",
    "grad_clip": "clip_norm",
    "max_grad_norm": "clip_norm",
    "gradient_clipping": "clip_norm",
    "scheduler": "schedule",
    "lr_scheduler": "schedule",
    "dataset": "data",
    "datasets": "data",
    "eval_steps": "every",
    "save_steps": "every",
    "log_every": "interval_steps",
    "logging_steps": "interval_steps",
    "stage": "zero_stage",
    "seed_everything": "seed",
    "output_dir": "root",
    "loss": "objective",
    "task": "objective",
    "world_size": "processes_per_node",
    "num_processes": "processes_per_node",
}
MAX_FAULTS = 200
"""Faults of the schema that are told: nobody reads more, and finding words for each takes time."""

_DERIVED = {
    "gradient_accumulation_steps": "Remove it: accumulation follows from batch.global_size, "
    "batch.micro_size and the world size.",
    "accumulation_steps": "Remove it: accumulation follows from batch.global_size, "
    "batch.micro_size and the world size.",
    "resume": "Remove it: the same command resumes a session.",
    "resume_from_checkpoint": "Remove it: the same command resumes a session.",
}
_NUMBER = re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_MOST_CHARACTERS = 60
"""Of a text in which a number is looked for."""

_NUMBER_AND_UNIT = re.compile(r"(?P<number>[0-9_]+[kKmMbBgG]?)\s+(?P<unit>[a-zA-Z]+)")
_YAML_1_1_BOOLEANS = {"yes": "true", "on": "true", "no": "false", "off": "false"}


def faults_of(error: ValidationError, root: Node) -> list[Fault]:
    """Every fault that validation found, at the line that it was written at.

    Args:
        error: What pydantic says of the plain tree.
        root: The tree.
    """
    details = error.errors(include_url=False)
    num_left_out = len(details) - MAX_FAULTS
    details = details[:MAX_FAULTS]
    misspelt = _misspelt(details)
    faults = [
        _fault(detail, root)
        for detail in details
        if not (detail["type"] == "missing" and detail["loc"] in misspelt)
        and not _is_echo(detail, root)
    ]
    if num_left_out > 0:
        problem = f"has {num_left_out:,} more faults, which are not listed"
        faults.append(Fault("", root.location, problem, "Mend those that are."))
    # A default that is refused is refused in every phase, but was written once.
    return list(dict.fromkeys(faults))


def _is_echo(detail: ErrorDetails, root: Node) -> bool:
    """A list counts as too short when its members are refused, which is said of each of them."""
    written = root.find(detail["loc"])
    return detail["type"] == "too_short" and written is not None and bool(written.items)


def _misspelt(details: Sequence[ErrorDetails]) -> set[Loc]:
    """Missing keys that an unknown key beside them was meant to be."""
    meant = set()
    for detail in details:
        if detail["type"] == "extra_forbidden":
            *above, key = detail["loc"]
            near = _nearest(str(key), keys_at(tuple(above)))
            if near is not None:
                meant.add((*above, near))
    return meant


def _fault(detail: ErrorDetails, root: Node) -> Fault:
    loc = detail["loc"]
    written = root.find(loc)
    location = (written or root.nearest(loc)).location
    origin = root.origin_of(loc)
    path = path_text(origin)
    if detail["type"] == "missing":
        return Fault(path, location, "is missing", _fix_of_missing(loc))
    if detail["type"] == "extra_forbidden":
        return Fault(path, location, "is no known key", _fix_of_unknown(loc, origin))
    slot = slot_at(loc)
    if detail["type"] == "value_error":
        problem = str(detail["ctx"]["error"])
        return Fault(path, location, problem, _fix_of_value(slot, detail["input"]))
    # A value in the schema's JSON reading is the plain one, so what was found can be shown.
    found = written.plain() if written is not None else detail["input"]
    allowed = slot.allowed if slot is not None else detail["msg"]
    problem = f"is {found_text(found)}; it must be {allowed}"
    return Fault(path, location, problem, _fix_of_value(slot, found))


def _fix_of_missing(loc: Loc) -> str:
    slot, key = slot_at(loc), loc[-1]
    if slot is not None and slot.example is not None:
        return f"Add for example `{key}: {slot.example}`."
    if slot is not None and slot.section is not None:
        keys = ", ".join(required_keys(slot.section) or slot.section.model_fields)
        kind = "list" if slot.is_list else "section"
        return f"Add the {kind} `{key}:`{', each' if slot.is_list else ''} with {keys}."
    return f"Add `{key}:`."


def _fix_of_unknown(loc: Loc, origin: Loc) -> str:
    key, allowed = str(loc[-1]), keys_at(loc[:-1])
    if origin[0] == "defaults" and len(origin) == 2:
        allowed = tuple(name for name in allowed if name != "name")
    if key.lower() in _DERIVED:
        return _DERIVED[key.lower()]
    near = _nearest(key, allowed)
    if near is not None:
        return f"Did you mean `{near}`?"
    elsewhere = _elsewhere(key, origin)
    hint = f"Did you mean {' or '.join(elsewhere)}? " if 1 <= len(elsewhere) <= 3 else ""
    return f"{hint}Allowed here: {', '.join(allowed)}."


def _elsewhere(key: str, origin: Loc) -> list[str]:
    """Places of a key that stands in the wrong section, those nearest to the root."""
    meant = key if key in homes() else _FOREIGN_NAMES.get(key.lower(), "")
    paths = homes().get(meant, ())
    least = min((path.count(".") for path in paths), default=0)
    # A key at the root that phases have is most likely meant for all of them.
    phase = "defaults" if origin[0] == "defaults" or len(origin) == 1 else path_text(origin[:2])
    return [
        f"`{path.replace('phases[]', phase)}.{meant}`" if path else f"`{meant}`"
        for path in paths
        if path.count(".") == least
    ]


def _nearest(key: str, allowed: Sequence[str]) -> str | None:
    """The allowed key that was meant, by its letters or by its name elsewhere."""
    lower = key.lower().replace("-", "_")
    foreign = _FOREIGN_NAMES.get(lower)
    if foreign in allowed:
        return foreign
    near = get_close_matches(lower, allowed, n=1, cutoff=0.7)
    return near[0] if near else None


def _fix_of_value(slot: Slot | None, found: object) -> str:
    if slot is None:
        return "Correct or remove it."
    for fix in (_fix_of_kind(slot, found), _fix_by_choice(slot, found)):
        if fix is not None:
            return fix
    if slot.example is not None:
        return f"Set for example {slot.example}."
    if slot.section is not None:
        required = ", ".join(required_keys(slot.section))
        if slot.is_list:
            return f"Put at least one into the list, with the keys {required}."
        needs = f"; it needs {required}" if required else ", or remove it"
        return f"Put its keys below it{needs}."
    default = slot.field.get_default(call_default_factory=True, validated_data={})
    return f"Leave the key out for its default, {found_text(default)}."


def _fix_of_kind(slot: Slot, found: object) -> str | None:
    """What helps when the right value was written in a way that makes it another kind."""
    if slot.accepts_text and isinstance(found, (int, float)):
        return f'Put it in quotes: "{found_text(found)}".'
    if slot.is_duration and isinstance(found, int) and not isinstance(found, bool) and found > 0:
        return f"Write for example {found} steps."
    if not isinstance(found, str) or slot.accepts_text or len(found) > _MOST_CHARACTERS:
        return None
    if slot.is_number and _NUMBER.fullmatch(found):
        return f"Remove the quotes: {found}."
    if slot.is_duration:
        return _fix_of_unit(found)
    if slot.kind is bool and found.lower() in _YAML_1_1_BOOLEANS:
        return f"In YAML 1.2 that is a text; write {_YAML_1_1_BOOLEANS[found.lower()]}."
    return None


def _fix_of_unit(found: str) -> str | None:
    """What helps when the unit of a duration is misspelt."""
    match = _NUMBER_AND_UNIT.fullmatch(found.strip())
    near = get_close_matches(match["unit"].lower(), get_args(Unit), n=1) if match else []
    if not match or not near or near[0] == match["unit"]:
        return None  # the unit is right: it is the number that is not
    return f"Did you mean {match['number']} {near[0]}?"


def _fix_by_choice(slot: Slot, found: object) -> str | None:
    if not slot.choices:
        return None
    near = get_close_matches(str(found).lower(), slot.choices, n=1)
    return f"Did you mean {near[0]}?" if near else f"Set for example {slot.choices[0]}."
