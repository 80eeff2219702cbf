"""The follower: a process of its own that gives the session's records to a tracker, as wandb.

It reads what the main rank writes and never talks to it, so it can neither block nor kill
training, and it outlives the fresh images of a rank. Each tracker has its own, so that none
waits for another. Started as
`python -m phaseline.tracking.follower SESSION_DIR --parent PID --tracker NAME`.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from phaseline.errors import PhaselineError
from phaseline.session.attempts import read_outcome
from phaseline.session.layout import SessionLayout
from phaseline.session.temporary import libraries_in_own_folder
from phaseline.tracking.feed_problem import leave_problem
from phaseline.tracking.follower_lock import (
    FeedState,
    LockOwner,
    lock_within,
    open_lock,
    read_owner,
    try_lock,
    write_owner,
)
from phaseline.tracking.tracker import WANDB, tracker_folder

if TYPE_CHECKING:
    from phaseline.tracking.following import Following

_AT_ONCE = 3
"""Breakdowns after which a new follower begins at once, even when the attempt is over."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0
_MOST_REPLACEMENTS = 3
"""How often the end of a session replaces a follower that was killed."""
_LONGEST_DEATH_S = 10.0
"""How long the threads of a killed process may take to let go of its files."""
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def start_follower(
    session_dir: Path,
    parent_pid: int | None = None,
    name: str = WANDB,
    *,
    attempt: int | None = None,
) -> str:
    """Starts a tracker's follower, unless the one of this parent still lives.

    The lock on `follower.lock` is taken here and handed over, so that of two starts only one
    succeeds. A follower of an earlier, dead parent may still be sending its last records:
    then the new one waits for it. One of this parent that was just killed is replaced. A start
    that fails is a warning, and training goes on. **Ranks:** main.

    Args:
        session_dir: The session's directory.
        parent_pid: The process whose death ends the follower; None: this one.
        name: The tracker.
        attempt: The attempt whose end ends the follower; None: the newest, or the one to come
            if that has ended already.

    Returns:
        What kept it from starting, for people; empty if nothing did.
    """
    parent = os.getpid() if parent_pid is None else parent_pid
    try:
        number = _attempt_at_hand(session_dir) if attempt is None else attempt
        _start_unless_alive(_Order(session_dir, name, parent, number))
    except (OSError, PhaselineError) as error:
        problem = (
            f"{name} is not fed, the records stay in {session_dir}: the follower did not start: "
            f"{error}"
        )
        warnings.warn(problem, RuntimeWarning, stacklevel=2)
        return problem
    return ""


def wait_for_follower(session_dir: Path, timeout_s: float, name: str = WANDB) -> bool:
    """Waits until no follower lives, at most so long; returns whether none does.

    It ends soon after the attempt's outcome is written, so wait after that. **Ranks:** main.
    """
    return _wait_for_end(session_dir, timeout_s, name) is not None


def finish_feeding(session_dir: Path, timeout_s: float, name: str = WANDB, *, attempt: int) -> bool:
    """Waits until a tracker's follower has ended by itself; returns whether it has.

    It ends when it has sent all of the attempt, or has given up and said so in its log. One that
    is killed meanwhile is replaced, a few times. **Ranks:** main.

    Args:
        session_dir: The session's directory.
        timeout_s: Longest wait, seconds.
        name: The tracker.
        attempt: The attempt, whose outcome is written.
    """
    deadline = time.monotonic() + timeout_s
    for _ in range(_MOST_REPLACEMENTS):
        state = _wait_for_end(session_dir, deadline - time.monotonic(), name)
        if state is not FeedState.FEEDING:
            return state is FeedState.ENDED
        start_follower(session_dir, name=name, attempt=attempt)
    return _wait_for_end(session_dir, deadline - time.monotonic(), name) is FeedState.ENDED


def _wait_for_end(session_dir: Path, timeout_s: float, name: str) -> FeedState | None:
    """How the last follower ended once none lives; None: one still does, or nobody can tell."""
    try:
        lock = open_lock(session_dir, name)
    except OSError:
        return None
    try:
        if not lock_within(lock, timeout_s):
            return None
        owner = read_owner(lock)
        return FeedState.ENDED if owner is None else owner.state
    finally:
        os.close(lock)


class _Order(NamedTuple):
    """What a follower is started for."""

    session_dir: Path
    name: str
    parent: int
    attempt: int
    breakdowns: int = 0

    @property
    def pause_s(self) -> float:
        """How long to wait after the breakdown at hand."""
        doublings = min(10, self.breakdowns - _AT_ONCE - 1)
        return 0.0 if doublings < 0 else min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**doublings)


def _start_unless_alive(order: _Order) -> None:
    lock = open_lock(order.session_dir, order.name)
    try:
        if try_lock(lock):
            _spawn(order, lock=lock)
            return
        owner = read_owner(lock)
        if owner is None or owner.parent != order.parent:
            _spawn(order, lock=None)
        elif owner.is_dying and lock_within(lock, _LONGEST_DEATH_S):
            # Killed just now: its threads have ended, and the kernel has let go of the lock.
            _spawn(order, lock=lock)
    finally:
        # The lock itself stays with the follower, which holds the same open file.
        os.close(lock)


def main(arguments: Sequence[str] | None = None) -> int:
    """Follows until the parent's attempt ends; whatever fails is one line in the log."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    os.nice(10)
    options = _parse(arguments)
    order = _Order(
        options.session_dir, options.tracker, options.parent, options.attempt, options.breakdowns
    )
    lock = open_lock(*order[:2]) if options.lock is None else options.lock
    os.set_inheritable(lock, False)
    fcntl.flock(lock, fcntl.LOCK_EX)
    owner = LockOwner(options.parent, os.getpid(), FeedState.FEEDING)
    write_owner(lock, owner)

    # Imported late: from here on signals no longer end this process.
    from phaseline.tracking.following import Following

    following = Following(
        order.session_dir, order.name, parent_pid=order.parent, attempt=order.attempt
    )
    try:
        # wandb's own folders are left behind when this process is killed.
        with libraries_in_own_folder():
            following.run()
    except Exception as error:  # noqa: BLE001  # Whatever it is, training does not see it.
        if not _goes_on_after(error, order, following, lock):
            write_owner(lock, owner._replace(state=FeedState.ENDED))
        # The library's own exit handlers would wait for what is broken.
        os._exit(1)
    write_owner(lock, owner._replace(state=FeedState.ENDED))
    return 0


def _goes_on_after(error: Exception, order: _Order, following: Following, lock: int) -> bool:
    """Lets a new process try again, later and later, as long as the attempt lives.

    A network that is down comes back; what our own errors tell of does not mend itself.

    Returns:
        Whether a new process goes on.
    """
    what = f"the feed to {order.name} broke, "
    why = f": {type(error).__name__}: {_first_line(error)}"
    if order.breakdowns == 0:
        leave_problem(order.session_dir, order.name, error)
    if isinstance(error, PhaselineError):
        _say(f"{what}the records stay in the session{why}")
        return False
    order = order._replace(breakdowns=order.breakdowns + 1)
    if order.breakdowns <= _AT_ONCE:
        _say(f"{what}a new follower goes on{why}")
    else:
        _say(f"{what}a new follower tries again in {order.pause_s:.0f} s{why}")
        if not following.pause(order.pause_s):
            how = f"; `phaseline sync {order.session_dir}` sends them" * (order.name == WANDB)
            _say(f"the attempt is over, the records stay in the session{how}")
            return False
    _spawn(order, lock=lock)
    return True


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m phaseline.tracking.follower")
    parser.add_argument("session_dir", type=Path)
    parser.add_argument("--parent", type=int, required=True, help="its death ends the following")
    parser.add_argument("--tracker", default=WANDB, help="what is fed")
    parser.add_argument("--attempt", type=int, default=1, help="its outcome ends it as well")
    parser.add_argument("--lock", type=int, help="descriptor that holds the follower's lock")
    parser.add_argument("--breakdowns", type=int, default=0, help="how often it broke down")
    return parser.parse_args(arguments)


def _attempt_at_hand(session_dir: Path) -> int:
    """The newest attempt, or the one to come if that has ended already."""
    layout = SessionLayout(session_dir)
    newest = max(layout.attempt_numbers(), default=0)
    is_over = newest == 0 or read_outcome(layout.attempt(newest)) is not None
    return newest + is_over


def _spawn(order: _Order, *, lock: int | None) -> None:
    command = [sys.executable, "-m", "phaseline.tracking.follower"]
    command += [str(order.session_dir.absolute()), "--tracker", order.name]
    command += ["--parent", str(order.parent), "--attempt", str(order.attempt)]
    command += ["--breakdowns", str(order.breakdowns)]
    command += [] if lock is None else ["--lock", str(lock)]
    # A wandb service of the parent's own would end with the parent.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_SERVICE")}
    if lock is not None:
        write_owner(lock, LockOwner(order.parent, 0, FeedState.FEEDING))
    with (tracker_folder(order.session_dir, order.name) / "follower.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=() if lock is None else (lock,),
            # Signals to the group of a terminal or of a launcher do not reach it.
            start_new_session=True,
        )
    if lock is not None:
        write_owner(lock, LockOwner(order.parent, process.pid, FeedState.FEEDING))
    # It is meant to outlive its handle, so nothing is to be said when that is collected.
    process.returncode = 0


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
