from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from phaseline.errors import ExitCode, SessionError
from phaseline.session.attempts import (
    Adopted,
    ErrorRecord,
    Outcome,
    read_adopted,
    read_error,
    read_outcome,
    take_attempt,
    write_adopted,
    write_error,
    write_outcome,
)
from phaseline.session.layout import SessionLayout
from unit.covered_lines import covered
from unit.session.conftest import StartPython

TAKE_TEN = """
import sys
from pathlib import Path
from phaseline.session.attempts import take_attempt
from phaseline.session.layout import SessionLayout
sys.stdin.readline()
print(*[take_attempt(SessionLayout(Path(sys.argv[1]))).number for _ in range(10)])
"""


def _error(rank: int, *, consequence: bool = False) -> ErrorRecord:
    return ErrorRecord(
        rank=rank,
        host="node1",
        phase="pretrain",
        step=12,
        kind="ValueError",
        message="no",
        traceback="Traceback ...",
        consequence=consequence,
        time=1.5,
    )


def test_take_attempt_counts_from_one(layout: SessionLayout) -> None:
    assert [take_attempt(layout).number for _ in range(3)] == [1, 2, 3]
    assert layout.attempt(3).dir.is_dir()


def test_take_attempt_gives_every_number_once_when_processes_race(
    layout: SessionLayout, start_python: StartPython
) -> None:
    racers = [start_python(TAKE_TEN, layout.root) for _ in range(4)]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    taken = [int(word) for racer in racers for word in racer.communicate()[0].split()]
    assert sorted(taken) == list(range(1, 41))


def test_outcome_comes_back_as_written(layout: SessionLayout) -> None:
    attempt = take_attempt(layout)
    assert read_outcome(attempt) is None
    outcome = Outcome(ExitCode.STOPPED, "SIGTERM", 12.25)
    write_outcome(attempt, outcome)
    found = read_outcome(attempt)
    assert found == outcome
    assert isinstance(found.code, ExitCode)


def test_adopted_comes_back_as_written(layout: SessionLayout) -> None:
    attempt = take_attempt(layout)
    assert read_adopted(attempt) is None
    adopted = Adopted(
        ("phases/a/run-1/checkpoints/step-00000005.a0001",), None, covered((1, 5), (2, 7))
    )
    write_adopted(attempt, adopted)
    assert read_adopted(attempt) == adopted


@pytest.mark.parametrize("text", ['{"code": 99, "reason": "", "time": 0}', '{"reason": ""}'])
def test_read_outcome_names_the_file_when_its_content_is_foreign(
    layout: SessionLayout, text: str
) -> None:
    attempt = take_attempt(layout)
    attempt.outcome_file.write_text(text)
    with pytest.raises(SessionError, match=r"outcome\.json does not hold what this version writes"):
        read_outcome(attempt)


def test_write_error_keeps_the_first_when_ranks_fail_at_once(layout: SessionLayout) -> None:
    attempt = take_attempt(layout)
    barrier = Barrier(8)

    def fail(rank: int) -> None:
        barrier.wait()
        write_error(attempt, _error(rank))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fail, range(8)))
    first = read_error(attempt)
    assert first is not None
    write_error(attempt, _error(99))
    assert read_error(attempt) == first == _error(first.rank)


def test_write_error_keeps_the_first_when_all_are_consequences(layout: SessionLayout) -> None:
    attempt = take_attempt(layout)
    assert read_error(attempt) is None
    write_error(attempt, _error(1, consequence=True))
    write_error(attempt, _error(2, consequence=True))
    assert read_error(attempt) == _error(1, consequence=True)


@pytest.mark.parametrize("cause_first", [True, False])
def test_write_error_shows_the_cause_when_a_consequence_was_recorded_too(
    layout: SessionLayout, cause_first: bool
) -> None:
    attempt = take_attempt(layout)
    records = [_error(1), _error(2, consequence=True)]
    for record in records if cause_first else reversed(records):
        write_error(attempt, record)
    write_error(attempt, _error(3))
    assert read_error(attempt) == _error(1)
