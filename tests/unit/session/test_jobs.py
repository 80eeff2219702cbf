from __future__ import annotations

import json
from pathlib import Path

import pytest

from phaseline.errors import ExitCode, SessionError
from phaseline.session.jobs import (
    JobStart,
    list_job_starts,
    list_submitted,
    note_submitted,
    read_job_start,
    write_job_start,
)
from phaseline.session.layout import SessionLayout


@pytest.fixture
def layout(tmp_path: Path) -> SessionLayout:
    return SessionLayout(tmp_path)


def start(job_id: str, restart: int, began: float) -> JobStart:
    return JobStart(
        job_id=job_id,
        restart=restart,
        line=job_id,
        nodes="node[1-2]",
        began=began,
        slot_ends=None,
        since=0,
        checkpoint=None,
    )


def test_starts_are_listed_in_the_order_of_time(layout: SessionLayout) -> None:
    written = [start("12", 1, 3.0), start("9", 0, 1.0), start("12", 0, 2.0)]
    for one in written:
        write_job_start(layout, one)
    note_submitted(layout, ["9", "12"])
    layout.refusal_file("12", 0).write_text("{}")
    assert [(one.job_id, one.restart) for one in list_job_starts(layout)] == [
        ("9", 0),
        ("12", 0),
        ("12", 1),
    ]


def test_start_that_is_over_says_how(layout: SessionLayout) -> None:
    over = start("9", 0, 1.0).over(ExitCode.STOPPED, "preempted", at=2.0, is_last=False)
    write_job_start(layout, over)
    assert read_job_start(layout, "9", 0) == over
    assert (over.code, over.cause, over.ended) == (75, "preempted", 2.0)


def test_start_is_none_when_there_is_no_record(layout: SessionLayout) -> None:
    assert read_job_start(layout, "9", 0) is None
    assert list_job_starts(layout) == []
    assert list_submitted(layout) == []


def test_damaged_record_is_named(layout: SessionLayout) -> None:
    write_job_start(layout, start("9", 0, 1.0))
    layout.job_file("9", 0).write_text('{"job": 9}')
    with pytest.raises(SessionError, match=r"9-0\.json does not hold what this version writes"):
        read_job_start(layout, "9", 0)


def test_submitted_jobs_are_kept_over_submissions(layout: SessionLayout) -> None:
    note_submitted(layout, ["9"])
    note_submitted(layout, ["12", "13"])
    assert list_submitted(layout) == ["9", "12", "13"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("job_id", "--help"),
        ("job_id", "12a"),
        ("began", 1e300),
        ("slot_ends", -1.0),
        ("restart", 10**30),
        ("code", 7),
    ],
)
def test_record_with_a_value_that_none_has_is_refused_with_its_field(
    layout: SessionLayout, field: str, value: object
) -> None:
    write_job_start(layout, start("12", 0, 1.0))
    path = layout.job_file("12", 0)
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(SessionError, match=f"{field} is .*Remove it: only the history"):
        list_job_starts(layout)


def test_submitted_number_that_is_none_is_refused(layout: SessionLayout) -> None:
    note_submitted(layout, ["9"])
    layout.submitted_file.write_text('{"jobs": ["9", "x"]}')
    with pytest.raises(SessionError, match=r"jobs\.1 is 'x'"):
        list_submitted(layout)
