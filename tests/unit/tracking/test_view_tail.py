from __future__ import annotations

from typing import Any

from phaseline.session.metrics_view import read_metrics
from phaseline.tracking.view_tail import ViewTail
from unit.tracking.session_builder import SessionBuilder


def _split(records: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[int]]:
    """The records as the view has them, and which attempt recorded each."""
    attempts = [record.pop("attempt") for record in records]
    return records, attempts


def test_view_tail_yields_each_record_once_when_the_file_grows(session: SessionBuilder) -> None:
    tail = ViewTail(session.layout)
    assert list(tail.read_new()) == []
    attempt = session.attempt()
    assert list(tail.read_new()) == []
    session.train(attempt, range(1, 4))
    first = list(tail.read_new())
    session.train(attempt, range(4, 6))
    assert _split(first + list(tail.read_new())) == (list(read_metrics(session.layout)), [1] * 5)
    assert list(tail.read_new()) == []


def test_view_tail_begins_anew_when_another_attempt_decides(session: SessionBuilder) -> None:
    tail = ViewTail(session.layout)
    first = session.attempt()
    session.train(first, range(1, 9))
    assert len(list(tail.read_new())) == 8
    second = session.attempt((first, 5))
    session.train(second, range(6, 8))
    # What the earlier attempt writes from now on is nobody's.
    session.train(first, range(9, 20))
    seen = _split(list(tail.read_new()))
    assert seen == (list(read_metrics(session.layout)), [1] * 5 + [2] * 2)
    session.train(second, range(8, 11))
    assert [(r["seq"], r["global_step"]) for r in tail.read_new()] == [(40, 8), (45, 9), (50, 10)]


def test_view_tail_waits_or_skips_when_a_line_is_torn(session: SessionBuilder) -> None:
    attempt = session.attempt()
    session.train(attempt, range(1, 3))
    path = session.layout.attempt(attempt).metrics_file
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    tail = ViewTail(session.layout)
    assert [r["global_step"] for r in tail.read_new()] == [1]
    path.write_bytes(whole)
    assert [r["global_step"] for r in tail.read_new()] == [2]
    path.write_bytes(whole + b'{"torn')
    session.train(attempt, range(3, 4))
    assert [(r["seq"], r["global_step"]) for r in tail.read_new()] == [(15, 3)]
    assert len(list(read_metrics(session.layout))) == 3
