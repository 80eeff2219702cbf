"""Which changes make a phase's trial run again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from phaseline.config.sections import Config
from phaseline.training.pipeline.trial_record import TrialPlace, TrialRecord
from unit.training.pipeline.sessions import TEXT, THIRD, configure

PLACE = TrialPlace(2, "cpu", {"torch": "2.13.0", "phaseline": "1"})
LORA = "phases[0].trainable={lora: {rank: 4}}"


def configured(folder: Path, *overrides: str) -> Config:
    text = TEXT.replace("tracking:", THIRD, 1)
    return configure(folder, *overrides, text=text).config


def still_tried(before: Config, after: Config, place: TrialPlace = PLACE) -> list[bool]:
    """Of each phase: whether its trial before a change counts after it."""
    records: list[dict[str, str]] = []
    for idx in range(len(before.phases)):
        records = TrialRecord(before, PLACE, records).with_trial(idx)
    record = TrialRecord(after, place, records)
    return [record.is_tried(idx) for idx in range(len(after.phases))]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), [True, True, True]),
        (("session.notes=other",), [True, True, True]),
        (("phases[1].batch.micro_size=2",), [True, False, True]),
        (("phases[2].engine.precision=bf16",), [True, True, False]),
        (("model.config.num_hidden_layers=3",), [False, False, False]),
        # What a phase inherits comes through those before it.
        ((LORA,), [False, False, False]),
        ((LORA, "phases[1].inherit.weights=fresh"), [False, False, False]),
    ],
)
def test_trial_is_run_again_only_where_it_depends_on_what_changed(
    tmp_path: Path, overrides: tuple[str, ...], expected: list[bool]
) -> None:
    assert still_tried(configured(tmp_path), configured(tmp_path, *overrides)) == expected


def test_change_of_a_phase_that_nothing_is_taken_from_is_no_matter(tmp_path: Path) -> None:
    fresh = "phases[1].inherit.weights=fresh"
    found = still_tried(configured(tmp_path, fresh), configured(tmp_path, fresh, LORA))
    assert found == [False, True, True]


@pytest.mark.parametrize(
    "place",
    [
        replace(PLACE, world_size=4),
        replace(PLACE, device="NVIDIA H200"),
        replace(PLACE, versions={**PLACE.versions, "torch": "2.14.0"}),
    ],
)
def test_every_phase_is_tried_again_in_another_place(tmp_path: Path, place: TrialPlace) -> None:
    config = configured(tmp_path)
    assert still_tried(config, config, place) == [False, False, False]


def test_checkpoint_of_a_kind_of_engine_is_tried_once(tmp_path: Path) -> None:
    config = configured(tmp_path, "phases[2].engine.precision=bf16")
    records = TrialRecord(config, PLACE).with_trial(0)
    record = TrialRecord(config, PLACE, records)
    assert [record.is_checkpoint_tried(idx) for idx in range(3)] == [True, True, False]


def test_records_of_an_older_shape_count_for_nothing(tmp_path: Path) -> None:
    old = [{"world_size": 2, "fingerprint": "f", "phases": ["first", "second", "third"]}]
    record = TrialRecord(configured(tmp_path), PLACE, old)
    assert not record.is_tried(0)
    assert [one["phase"] for one in record.with_trial(1)] == ["second"]
    for damaged in ({"key": "x"}, {"phase": 1, "key": "k", "engine": "e"}):
        assert not TrialRecord(configured(tmp_path), PLACE, [damaged]).is_checkpoint_tried(0)


def test_trials_of_another_world_are_kept_for_the_way_back(tmp_path: Path) -> None:
    config = configured(tmp_path)
    records = TrialRecord(config, PLACE).with_trial(0)
    records = TrialRecord(config, replace(PLACE, world_size=4), records).with_trial(0)
    assert TrialRecord(config, PLACE, records).is_tried(0)
    assert TrialRecord(config, PLACE, records).with_trial(0)[-1] == records[0]
    assert len(TrialRecord(config, PLACE, records).with_trial(0)) == 2
