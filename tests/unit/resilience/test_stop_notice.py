from __future__ import annotations

import pytest

from phaseline.distributed.environment import RankEnvironment
from phaseline.distributed.rendezvous import Rendezvous
from phaseline.errors import ExitCode, StopRequestedError
from phaseline.resilience.stop_flag import StopFlag
from phaseline.resilience.stop_notice import StopNotice


@pytest.fixture
def rendezvous() -> Rendezvous:
    return Rendezvous(RankEnvironment.read({}), timeout_s=30)


def test_notice_of_one_rank_is_heard_by_the_others(rendezvous: Rendezvous) -> None:
    flag = StopFlag()
    asked, other = StopNotice(flag, rendezvous), StopNotice(StopFlag(), rendezvous)
    assert not asked.heard()
    flag.set()
    assert asked.heard()
    assert other.heard()
    assert other.heard()


def test_notice_asks_the_store_now_and_then_only(
    rendezvous: Rendezvous, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions: list[str] = []
    monkeypatch.setattr(rendezvous, "is_published", questions.append)
    notice = StopNotice(StopFlag(), rendezvous)
    for _ in range(1000):
        assert not notice.heard()
    assert 1 <= len(questions) < 10


def test_notice_gives_work_up_once_a_request_was_heard(rendezvous: Rendezvous) -> None:
    flag = StopFlag()
    notice = StopNotice(flag, rendezvous)
    notice.require_none()
    flag.set()
    with pytest.raises(StopRequestedError, match="A stop was asked for") as raised:
        notice.require_none()
    assert raised.value.exit_code is ExitCode.STOPPED
