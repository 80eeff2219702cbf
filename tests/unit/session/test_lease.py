from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import pytest

from phaseline.errors import SessionBusyError, SessionError
from phaseline.session import linux
from phaseline.session.files import write_json
from phaseline.session.layout import SessionLayout
from phaseline.session.lease import (
    STALE_AFTER_S,
    Lease,
    LeaseOwner,
    _add_to_chain,
    _file,
    read_lease,
)
from unit.session.conftest import StartPython, first_line

WaitUntil = Callable[[Callable[[], bool]], None]

HOLD = """
import sys
from pathlib import Path
from phaseline.errors import SessionBusyError
from phaseline.session.layout import SessionLayout
from phaseline.session.lease import Lease
if sys.argv[2:] == ["on signal"]:
    sys.stdin.readline()
try:
    lease = Lease.acquire(SessionLayout(Path(sys.argv[1])))
except SessionBusyError as error:
    print("busy", flush=True)
else:
    print("held", flush=True)
    sys.stdin.readline()
"""

HOLD_OVER_EXEC = """
import os, sys
from pathlib import Path
from phaseline.session.layout import SessionLayout
from phaseline.session.lease import Lease
lease = Lease.acquire(SessionLayout(Path(sys.argv[1])))
image = int(sys.argv[2])
if image < 3:
    lease.stop()
    code = sys.orig_argv[2]
    os.execv(sys.executable, [sys.executable, "-c", code, sys.argv[1], str(image + 1)])
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def me() -> LeaseOwner:
    return LeaseOwner.of_this_process()


@pytest.fixture
def acquire(layout: SessionLayout) -> Iterator[Callable[..., Lease]]:
    """Takes the lease, and gives it back after the test."""
    leases: list[Lease] = []

    def take(*, take_over: bool = False, heartbeat_s: float = 0.02) -> Lease:
        leases.append(Lease.acquire(layout, take_over=take_over, heartbeat_s=heartbeat_s))
        return leases[-1]

    yield take
    for lease in leases:
        lease.release()


def _leave(layout: SessionLayout, owner: LeaseOwner, *, age_s: float = 0.0) -> None:
    """Leaves a lease as if its owner had given its last sign of life some time ago."""
    layout.lease_dir.mkdir(parents=True)
    assert _add_to_chain(layout.lease_dir, 1, owner)
    then = time.time() - age_s
    os.utime(_file(layout.lease_dir, 1), (then, then))


def _holder(layout: SessionLayout) -> LeaseOwner | None:
    state = read_lease(layout)
    assert state is not None
    return state.owner


def _say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_acquire_names_this_process_when_the_session_is_free(
    layout: SessionLayout, acquire: Callable[..., Lease], me: LeaseOwner
) -> None:
    assert read_lease(layout) is None
    lease = acquire()
    assert _holder(layout) == me
    assert not lease.lost.is_set()


def test_acquire_names_owner_and_remedy_when_another_process_holds_it(
    layout: SessionLayout, start_python: StartPython
) -> None:
    holder = start_python(HOLD, layout.root)
    assert first_line(holder) == "held"
    pattern = (
        rf"{re.escape(str(layout.root))} is in use by process {holder.pid} on .*"
        r"last sign of life is \d+ s old\. Stop that process first, or take the session from it"
    )
    with pytest.raises(SessionBusyError, match=pattern):
        Lease.acquire(layout)


def test_acquire_succeeds_when_the_owner_was_killed(
    layout: SessionLayout, start_python: StartPython, acquire: Callable[..., Lease], me: LeaseOwner
) -> None:
    holder = start_python(HOLD, layout.root)
    assert first_line(holder) == "held"
    holder.kill()
    holder.wait()
    acquire()
    assert _holder(layout) == me


def test_acquire_succeeds_when_the_owner_is_an_earlier_image_of_the_same_process(
    layout: SessionLayout, start_python: StartPython
) -> None:
    holder = start_python(HOLD_OVER_EXEC, layout.root, 1)
    assert first_line(holder) == "held"
    owner = _holder(layout)
    assert owner is not None
    assert owner.pid == holder.pid
    with pytest.raises(SessionBusyError, match=f"process {holder.pid}"):
        Lease.acquire(layout)


@pytest.mark.parametrize("has_dead_owner", [True, False])
def test_acquire_succeeds_once_when_many_processes_race(
    layout: SessionLayout, start_python: StartPython, me: LeaseOwner, has_dead_owner: bool
) -> None:
    if has_dead_owner:
        _leave(layout, replace(me, process_start=me.process_start - 1))
    racers = [start_python(HOLD, layout.root, "on signal") for _ in range(6)]
    for racer in racers:
        _say(racer)
    words = [first_line(racer) for racer in racers]
    assert sorted(words) == ["busy"] * 5 + ["held"]
    owner = _holder(layout)
    assert owner is not None
    assert owner.pid == racers[words.index("held")].pid


@pytest.mark.parametrize(
    ("changes", "age_s"),
    [
        pytest.param({"process_start": 1}, 0, id="its pid was given out again"),
        pytest.param({"boot_id": "before"}, 0, id="the machine was started again"),
        pytest.param({"host": "other"}, STALE_AFTER_S + 5, id="silent on another host"),
        pytest.param({"pid_namespace": "x"}, STALE_AFTER_S + 5, id="silent in another container"),
        pytest.param({"host": "other", "job_id": "7"}, 0, id="our job on another host"),
        pytest.param({"job_id": "7", "pid": 1}, 0, id="our job, requeued"),
    ],
)
def test_acquire_succeeds_when_the_owner_has_no_more_right(
    layout: SessionLayout,
    acquire: Callable[..., Lease],
    me: LeaseOwner,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    age_s: float,
) -> None:
    _leave(layout, _changed(me, changes), age_s=age_s)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    acquire()
    assert _holder(layout) == LeaseOwner.of_this_process()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"host": "other"}, id="another host"),
        pytest.param({"host": "other", "job_id": "8"}, id="another job"),
        pytest.param({"pid_namespace": "x", "process_start": 1}, id="another container"),
        pytest.param(
            {"pid": 1, "job_id": "7", "restart_count": 1},
            id="a second start in one allocation",
        ),
        pytest.param(
            {"host": "other", "job_id": "7", "restart_count": 2},
            id="the start after ours, which lives on behind a cut",
        ),
    ],
)
def test_acquire_refuses_when_the_owner_may_be_alive(
    layout: SessionLayout,
    me: LeaseOwner,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    owner = _changed(me, changes)
    _leave(layout, owner, age_s=STALE_AFTER_S / 2)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with pytest.raises(SessionBusyError, match=re.escape(f"in use by {owner}") + ".*first"):
        Lease.acquire(layout)
    assert _holder(layout) == owner


def test_lost_is_set_when_another_process_takes_over(
    layout: SessionLayout, acquire: Callable[..., Lease], me: LeaseOwner
) -> None:
    lease = acquire()
    other = replace(me, host="other")
    assert _add_to_chain(layout.lease_dir, 2, other)
    assert lease.lost.wait(30)
    lease.release()
    assert _holder(layout) == other


def test_acquire_takes_over_from_a_live_owner_when_told_to(
    layout: SessionLayout, start_python: StartPython, acquire: Callable[..., Lease], me: LeaseOwner
) -> None:
    holder = start_python(HOLD, layout.root)
    assert first_line(holder) == "held"
    lease = acquire(take_over=True)
    assert _holder(layout) == me
    assert not lease.lost.is_set()


def test_heartbeat_touches_the_file_as_long_as_the_lease_is_held(
    layout: SessionLayout, acquire: Callable[..., Lease], wait_until: WaitUntil
) -> None:
    lease = acquire()
    path = _file(layout.lease_dir, 1)
    os.utime(path, (0, 0))
    wait_until(lambda: path.stat().st_mtime > 0)
    lease.stop()
    os.utime(path, (0, 0))
    time.sleep(0.1)
    assert path.stat().st_mtime == 0


def test_release_lets_another_process_in(layout: SessionLayout, start_python: StartPython) -> None:
    lease = Lease.acquire(layout)
    assert first_line(start_python(HOLD, layout.root)) == "busy"
    lease.release()
    assert _holder(layout) is None
    assert first_line(start_python(HOLD, layout.root)) == "held"


def test_release_does_nothing_when_the_session_directory_is_gone(layout: SessionLayout) -> None:
    lease = Lease.acquire(layout)
    lease.stop()
    for path in layout.lease_dir.iterdir():
        path.unlink()
    layout.lease_dir.rmdir()
    lease.release()
    assert not layout.lease_dir.exists()


def test_chain_keeps_only_its_highest_file(
    layout: SessionLayout, acquire: Callable[..., Lease]
) -> None:
    for _ in range(3):
        acquire().release()
    assert [path.name for path in layout.lease_dir.iterdir()] == ["00000006.json"]


def test_chain_refuses_a_number_when_it_was_used_and_removed(
    layout: SessionLayout, me: LeaseOwner
) -> None:
    layout.lease_dir.mkdir(parents=True)
    other = replace(me, host="other")
    assert _add_to_chain(layout.lease_dir, 1, me)
    assert _add_to_chain(layout.lease_dir, 2, other)
    assert _add_to_chain(layout.lease_dir, 3, other)
    assert not _add_to_chain(layout.lease_dir, 2, me)
    assert _holder(layout) == other


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{}", "does not hold what this version"),
        ('{"owner": {"host": "a"}}', "does not hold what this version"),
        ('{"owner": nul', "cannot be read"),
        ("", "cannot be read"),
        (None, "is a folder"),
    ],
)
def test_lease_that_is_damaged_is_to_be_removed(
    layout: SessionLayout, content: str | None, problem: str
) -> None:
    path = _file(layout.lease_dir, 1)
    layout.lease_dir.mkdir(parents=True)
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    # A copy would name an owner that is gone.
    message = rf"00000001\.json {problem}.*no process uses the session, then remove "
    for use in (read_lease, Lease.acquire):
        with pytest.raises(SessionError, match=message):
            use(layout)


def _changed(me: LeaseOwner, changes: dict[str, Any]) -> LeaseOwner:
    """The owner with other fields; another id without a start is that of a live process."""
    if "pid" in changes:
        changes = {"process_start": linux.process_start(changes["pid"]), **changes}
    return LeaseOwner(**{**asdict(me), **changes})


@pytest.mark.parametrize("what", ["moved", "replaced by a copy", "removed"])
def test_lease_is_lost_when_its_directory_lies_elsewhere(
    layout: SessionLayout, acquire: Callable[..., Lease], wait_until: WaitUntil, what: str
) -> None:
    lease = acquire()
    assert not lease.is_lost()
    elsewhere = layout.root.with_name("elsewhere")
    if what == "removed":
        shutil.rmtree(layout.root)
    else:
        layout.root.rename(elsewhere)
    if what == "replaced by a copy":
        shutil.copytree(elsewhere, layout.root)
    wait_until(lease.lost.is_set)
    assert lease.is_lost()
    assert lease.is_moved
    before = sorted(elsewhere.rglob("*"))
    lease.release()
    # Nothing is given back that belongs to another directory.
    assert layout.root.exists() == (what == "replaced by a copy")
    assert sorted(elsewhere.rglob("*")) == before


def test_lease_is_kept_when_the_way_to_its_directory_changes(
    layout: SessionLayout, acquire: Callable[..., Lease]
) -> None:
    lease = acquire()
    elsewhere = layout.root.with_name("elsewhere")
    layout.root.rename(elsewhere)
    layout.root.symlink_to(elsewhere)
    assert not lease.is_lost()


@pytest.mark.parametrize("name", ["000000099.json", "0000000000001.json"])
def test_number_in_other_digits_is_no_file_of_the_chain(
    layout: SessionLayout, acquire: Callable[..., Lease], me: LeaseOwner, name: str
) -> None:
    layout.lease_dir.mkdir(parents=True)
    (layout.lease_dir / name).write_text("{}")
    assert read_lease(layout) is None
    acquire()
    assert _holder(layout) == me


def test_number_that_no_session_reaches_is_refused_with_its_file(layout: SessionLayout) -> None:
    path = _file(layout.lease_dir, 10**12 - 1)
    path.parent.mkdir(parents=True)
    write_json(path, {"owner": None})
    with pytest.raises(SessionError, match=f"{path} has a number that .* then remove the file"):
        Lease.acquire(layout)
