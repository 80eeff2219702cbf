from __future__ import annotations

from pathlib import Path

import pytest

from phaseline.config.changes import Effect, compare
from phaseline.config.sections import Config
from unit.config.session_text import load

UNDER_WAY = {"first": False}
FINISHED = {"first": True}


@pytest.mark.parametrize(
    ("override", "path", "text", "effect"),
    [
        ("session.notes=x", "session.notes", '"" -> "x"', Effect.NONE),
        ("session.root=x", "session.root", '"runs" -> "x"', Effect.NONE),
        ("session.seed=4", "session.seed", "0 -> 4", Effect.STATE),
        ("session.name=x", "session.name", '"test" -> "x"', Effect.NUMBERS),
        ("model.config.head_dim=8", "model.config.head_dim", "(absent) -> 8", Effect.NUMBERS),
        ("tracking.console=off", "tracking.console", '"auto" -> "off"', Effect.NONE),
        ("cluster.nodes=2", "cluster.nodes", "1 -> 2", Effect.NONE),
        (
            "phases[0].optimizer.lr=1",
            "phases[0].optimizer.lr",
            "0.0003 -> 1.0",
            Effect.NUMBERS,
        ),
        ("phases[0].data.num_workers=2", "phases[0].data.num_workers", "0 -> 2", Effect.NONE),
        ("phases[0].data.packing=false", "phases[0].data.packing", "true -> false", Effect.NUMBERS),
        ("phases[0].checkpoint.keep_last=5", "phases[0].checkpoint.keep_last", "2 -> 5", None),
        ("phases[0].engine.zero_stage=2", "phases[0].engine.zero_stage", "1 -> 2", None),
        ("phases[0].batch.micro_size=2", "phases[0].batch.micro_size", "4 -> 2", None),
        ("phases[1].optimizer.lr=1", "phases[1].optimizer.lr", "0.0001 -> 1.0", Effect.AHEAD),
        ("phases[1].name=later", "phases[1].name", '"second" -> "later"', Effect.AHEAD),
    ],
)
def test_compare_says_what_a_change_does_when_the_first_phase_is_under_way(
    tmp_path: Path, override: str, path: str, text: str, effect: Effect | None
) -> None:
    (found,) = compare(load(tmp_path), load(tmp_path, override), UNDER_WAY)
    assert found.path == path
    assert str(found) == f"{path}: {text}"
    assert found.is_harmless is (effect in (None, Effect.NONE, Effect.AHEAD))
    if effect is not None:
        assert found.effect is effect


@pytest.mark.parametrize(
    "override",
    [
        "engine.kind=plain",
        "engine.zero_stage=3",
        "engine.offload=optimizer",
        "engine.unused_parameters=true",
        "engine.activation_checkpointing=true",
        "engine.deepspeed={overlap_comm: true}",
        "batch.micro_size=8",
        "evaluate.micro_size=2",
    ],
)
def test_compare_lets_the_layout_of_a_phase_change_when_it_is_under_way_or_finished(
    tmp_path: Path, override: str
) -> None:
    old, new = load(tmp_path), load(tmp_path, f"phases[0].{override}")
    [change] = compare(old, new, UNDER_WAY)
    assert change.effect is Effect.ROUNDING
    [change] = compare(old, new, FINISHED)
    assert change.effect is Effect.NONE


def test_compare_refuses_another_type_in_which_ranks_add_up_gradients(tmp_path: Path) -> None:
    old = load(tmp_path, "phases[0].engine.deepspeed={overlap_comm: true}")
    settings = "{overlap_comm: true, communication_data_type: bf16}"
    new = load(tmp_path, f"phases[0].engine.deepspeed={settings}")
    [change] = compare(old, new, UNDER_WAY)
    assert change.effect is Effect.NUMBERS
    assert "three digits" in change.remark
    [change] = compare(old, new, FINISHED)
    assert change.effect is Effect.NONE


@pytest.mark.parametrize(
    "override",
    [
        "engine.precision=bf16",
        "engine.deterministic=true",
        "engine.compile=true",
        "engine.linear_cross_entropy=true",
        "evaluate.at_start=true",
        "optimizer.weight_decay=0",
        "optimizer.clip_norm=null",
        "trainable.freeze=[embed]",
    ],
)
def test_compare_asks_for_acceptance_when_numbers_of_a_phase_under_way_change(
    tmp_path: Path, override: str
) -> None:
    old, new = load(tmp_path), load(tmp_path, f"phases[0].{override}")
    [change] = compare(old, new, UNDER_WAY)
    assert change.effect is Effect.NUMBERS


@pytest.mark.parametrize(
    ("override", "remark"),
    [
        ("phases[0].duration=200 steps", "the learning rate jumps"),
        ("phases[0].schedule.warmup=5 steps", "the learning rate jumps"),
        ("phases[0].batch.global_size=16", "samples then come from other places"),
        ("phases[0].data.sequence_length=32", "samples then come from other places"),
    ],
)
def test_compare_remarks_on_what_acceptance_does_when_it_is_not_obvious(
    tmp_path: Path, override: str, remark: str
) -> None:
    [change] = compare(load(tmp_path), load(tmp_path, override), UNDER_WAY)
    assert change.effect is Effect.NUMBERS
    assert change.remark.startswith(remark)


@pytest.mark.parametrize(
    ("override", "remark"),
    [
        ("phases[0].data.held_out_frac=0.3", "belong to the data"),
        ("phases[0].data={arguments: {packages: [json]}}", "belong to the data"),
        ("phases[0].optimizer.name=lion", "another state of the optimizer"),
        ("phases[0].optimizer.arguments={amsgrad: true}", "another state of the optimizer"),
        ("phases[0].inherit.weights=fresh", "took its weights then"),
        ("tokenizer.train.source=python_stdlib", "know the tokens by their numbers"),
    ],
)
def test_compare_says_why_a_change_can_never_be_accepted(
    tmp_path: Path, override: str, remark: str
) -> None:
    changes = compare(load(tmp_path), load(tmp_path, override), UNDER_WAY)
    assert changes
    assert {change.effect for change in changes} == {Effect.STATE}
    assert all(remark in change.remark for change in changes)


def test_compare_refuses_what_would_have_no_effect_when_the_phase_is_finished(
    tmp_path: Path,
) -> None:
    old = load(tmp_path)
    [rate] = compare(old, load(tmp_path, "phases[0].optimizer.lr=1"), FINISHED)
    assert rate.effect is Effect.STATE
    assert "first is finished, so it would change nothing" in rate.remark
    [length] = compare(old, load(tmp_path, "phases[0].duration=200 steps"), FINISHED)
    assert "add a phase behind it that is written as it is, with `inherit: {o" in length.remark
    both = {"first": True, "second": False}
    [length] = compare(old, load(tmp_path, "phases[0].duration=200 steps"), both)
    assert "add a phase behind second with `inherit: {weights: phase:first}`" in length.remark
    [seed] = compare(old, load(tmp_path, "session.seed=3"), FINISHED)
    assert seed.effect is Effect.NUMBERS


def test_compare_finds_nothing_when_configurations_are_equal(tmp_path: Path) -> None:
    assert compare(load(tmp_path), load(tmp_path), {"first": True, "second": False}) == []


def test_compare_lets_everything_change_when_nothing_has_begun(tmp_path: Path) -> None:
    changed = load(tmp_path, "session.seed=1", "phases[0].optimizer.lr=1", "phases[0].name=other")
    changes = compare(load(tmp_path), changed, {})
    assert len(changes) == 3
    assert all(change.is_harmless for change in changes)


def with_phases(config: Config, *phases: int | str) -> Config:
    """The configuration with phases of these places; a text is a name for the first."""
    made = [
        config.phases[0].model_copy(update={"name": idx})
        if isinstance(idx, str)
        else config.phases[idx]
        for idx in phases
    ]
    return config.model_copy(update={"phases": tuple(made)})


def test_compare_passes_when_phases_are_added_or_removed_behind_what_has_begun(
    tmp_path: Path,
) -> None:
    two = load(tmp_path)
    one = with_phases(two, 0)
    assert all(change.is_harmless for change in compare(one, two, UNDER_WAY))
    assert all(change.is_harmless for change in compare(two, one, UNDER_WAY))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ((0, 1), (0, "mid", 1), ["phase mid added"]),
        ((0,), (0, 1), ["phase second added"]),
        ((0, 1), (0,), ["phase second removed"]),
        ((0, "mid", 1), (0, 1), ["phase mid removed"]),
        (
            (0, "mid", 1),
            (0, 1, "mid"),
            ["phase mid moved to place 3", "phase second moved to place 2"],
        ),
        ((0, "mid"), (0, "other", "mid"), ["phase other added"]),
        ((0, "mid"), (0, "other"), ['phases[1].name: "mid" -> "other"']),
    ],
)
def test_compare_says_in_words_which_phases_come_and_go(
    tmp_path: Path,
    before: tuple[int | str, ...],
    after: tuple[int | str, ...],
    said: list[str],
) -> None:
    two = load(tmp_path)
    old, new = with_phases(two, *before), with_phases(two, *after)
    for begun in (UNDER_WAY, {}):
        changes = compare(old, new, begun)
        assert list(map(str, changes)) == said
        assert {change.effect for change in changes} == {Effect.AHEAD}


def test_compare_finds_what_changed_in_a_phase_that_has_another_place(tmp_path: Path) -> None:
    two, changed = load(tmp_path), load(tmp_path, "phases[1].optimizer.lr=1")
    added, rate = compare(two, with_phases(changed, 0, "mid", 1), UNDER_WAY)
    assert str(added) == "phase mid added"
    assert str(rate) == "phases[2].optimizer.lr: 0.0001 -> 1.0"


@pytest.mark.parametrize(
    ("phases", "found", "remark"),
    [
        ((1, 0), '"second"', "keep their places"),
        (("new", 0, 1), '"new"', "keep their places"),
        (("renamed", 1), '"renamed"', "a phase that has begun keeps it"),
        ((1,), '"second"', "a phase that has begun stays"),
    ],
)
def test_compare_says_in_one_line_that_a_begun_phase_is_not_where_it_was(
    tmp_path: Path, phases: tuple[int | str, ...], found: str, remark: str
) -> None:
    two = load(tmp_path)
    changes = compare(two, with_phases(two, *phases), UNDER_WAY)
    [moved] = [change for change in changes if not change.is_harmless]
    assert (moved.path, moved.old, moved.new) == ("phases[0].name", '"first"', found)
    assert moved.effect is Effect.STATE
    assert remark in moved.remark
