from __future__ import annotations

import re

import pytest

from phaseline.config.schema import homes, slot_at
from phaseline.config.sections import Config
from phaseline.config.tree import Loc, path_text
from unit.config.session_text import settings

_LOCS = list(settings())


@pytest.mark.parametrize("loc", _LOCS, ids=path_text)
def test_slot_tells_what_is_allowed_when_setting_exists(loc: Loc) -> None:
    slot = slot_at(loc)
    assert slot is not None
    assert slot.allowed
    assert "typing" not in slot.allowed
    assert "<class" not in slot.allowed


@pytest.mark.parametrize("loc", _LOCS, ids=path_text)
def test_slot_has_something_to_suggest_when_setting_exists(loc: Loc) -> None:
    slot = slot_at(loc)
    assert slot is not None
    field = slot.field
    default_helps = not field.is_required() and field.default is not None
    assert slot.example is not None or slot.section is not None or slot.choices or default_helps


@pytest.mark.parametrize("loc", _LOCS, ids=path_text)
def test_field_is_described_when_it_is_a_setting(loc: Loc) -> None:
    slot = slot_at(loc)
    assert slot is not None
    assert slot.field.description or slot.section is not None


def test_slot_is_none_when_schema_has_no_such_place() -> None:
    assert slot_at(("phases", 0, "nothing")) is None
    assert slot_at(("session", 0)) is None
    assert slot_at(("model", "config", "hidden_size")) is None


def test_slot_words_bounds_when_field_has_them() -> None:
    words = {
        "phases[0].optimizer.lr": "a number greater than 0 and at most 1000",
        "phases[0].optimizer.clip_norm": "a number greater than 0 and at most 1e+12, or null",
        "phases[0].data.sequence_length": "a whole number of at least 8 and at most 100000000, or null",
        "phases[0].evaluate.max_sequences": "a whole number greater than 0 and at most 1000000000, or null",
        "phases[0].engine.zero_stage": "0, 1, 2 or 3",
        "phases": "a list of phases with at least 1 and at most 256",
        "export.phases": "a list of texts",
    }
    by_path = {path_text(loc): loc for loc in _LOCS}
    for path, allowed in words.items():
        slot = slot_at(by_path[path])
        assert slot is not None
        assert slot.allowed == allowed


@pytest.mark.parametrize("loc", _LOCS, ids=path_text)
def test_number_has_both_bounds_when_it_is_a_setting(loc: Loc) -> None:
    slot = slot_at(loc)
    assert slot is not None
    if slot.is_number and not slot.choices:
        assert re.search(r"at least|greater than", slot.allowed), slot.allowed
        assert re.search(r"at most|less than", slot.allowed), slot.allowed


def test_homes_name_every_section_when_key_is_shared() -> None:
    assert homes()["clip_norm"] == ("phases[].optimizer",)
    assert homes()["every"] == ("phases[].evaluate", "phases[].checkpoint")
    assert set(Config.model_fields) <= homes().keys()
