from __future__ import annotations

from phaseline.session.attempts import Adopted, take_attempt, write_adopted
from phaseline.session.layout import AttemptLayout, SessionLayout
from phaseline.session.metrics_view import number_of, read_metrics
from phaseline.session.records import RecordWriter
from unit.covered_lines import covered


def _begin(layout: SessionLayout, *committed: tuple[int, int]) -> AttemptLayout:
    attempt = take_attempt(layout)
    write_adopted(attempt, Adopted((), None, covered(*committed)))
    return attempt


def _record(attempt: AttemptLayout, *steps: int, phase: str = "a") -> None:
    writer = RecordWriter(attempt.metrics_file)
    writer.append(
        [
            {
                "kind": "train",
                "phase": phase,
                "phase_step": step,
                "global_step": step,
                "tokens": step,
                "metrics": {},
                "timing": {"time": 0.0},
                "by": attempt.number,
            }
            for step in steps
        ]
    )
    writer.close()


def _seen(layout: SessionLayout) -> list[tuple[int, int]]:
    return [(record["by"], record["global_step"]) for record in read_metrics(layout)]


def test_read_metrics_is_empty_when_nothing_was_started(layout: SessionLayout) -> None:
    assert list(read_metrics(layout)) == []


def test_read_metrics_is_empty_when_no_attempt_got_to_adopting(layout: SessionLayout) -> None:
    _record(take_attempt(layout), 1, 2)
    assert list(read_metrics(layout)) == []


def test_read_metrics_shows_every_step_once_when_attempts_overlap(layout: SessionLayout) -> None:
    first = _begin(layout)
    _record(first, 1, 2, 3, 4)
    second = _begin(layout, (1, 2))
    _record(second, 3, 4, 5)
    third = _begin(layout, (1, 2), (2, 1))
    _record(third, 4, 5, 6)
    assert _seen(layout) == [(1, 1), (1, 2), (2, 3), (3, 4), (3, 5), (3, 6)]
    assert [record["seq"] for record in read_metrics(layout)] == [5, 10, 15, 20, 25, 30]


def test_read_metrics_does_not_change_when_an_older_attempt_writes_on(
    layout: SessionLayout,
) -> None:
    first = _begin(layout)
    _record(first, 1, 2)
    _record(_begin(layout, (1, 2)), 3)
    before = list(read_metrics(layout))
    _record(first, 3, 4, 5)
    assert list(read_metrics(layout)) == before


def test_read_metrics_keeps_to_the_attempt_before_when_the_newest_has_not_adopted(
    layout: SessionLayout,
) -> None:
    _record(_begin(layout), 1, 2)
    take_attempt(layout)
    assert _seen(layout) == [(1, 1), (1, 2)]


def test_read_metrics_numbers_over_all_phases_when_one_is_asked_for(
    layout: SessionLayout,
) -> None:
    attempt = _begin(layout)
    _record(attempt, 1, 2, phase="a")
    _record(attempt, 3, phase="b")
    assert [record["seq"] for record in read_metrics(layout, phase="b")] == [15]
    assert list(read_metrics(layout, phase="c")) == []


def test_number_of_grows_in_the_order_in_which_records_are_made() -> None:
    made = [
        *(("validation", 0, 0), ("samples", 0, 0), ("train", 1, 1), ("train", 2, 2)),
        *(("validation", 2, 2), ("samples", 2, 2), ("validation", 0, 2), ("samples", 0, 2)),
        *(("train", 1, 3), ("validation", 1, 3), ("validation", 0, 3), ("train", 1, 4)),
    ]
    numbers = [
        number_of({"kind": kind, "phase_step": phase_step, "global_step": step})
        for kind, phase_step, step in made
    ]
    assert numbers == sorted(set(numbers))
    assert min(numbers) >= 0
