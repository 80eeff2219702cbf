"""The wandb follower: a process of its own that sends the session's records to wandb.

It reads what the main rank writes and never talks to it, so it can neither block nor kill
training, and it outlives the fresh images of a rank. Started as
`python -m phaseline.tracking.follower SESSION_DIR --parent PID`.
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

from phaseline.session.attempts import read_outcome
from phaseline.session.layout import SessionLayout

_MOST_BREAKDOWNS = 3
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def start_follower(session_dir: Path, parent_pid: int | None = None) -> None:
    """Starts the follower, unless the one of this parent still lives.

    The lock on `wandb/follower.lock` is taken here and handed over, so that of two starts
    only one succeeds. A follower of an earlier, dead parent may still be sending its last
    records: then the new one waits for it. A start that fails is a warning, and training
    goes on. **Ranks:** main.

    Args:
        session_dir: The session's directory.
        parent_pid: The process whose death ends the follower; None: this one.
    """
    parent = os.getpid() if parent_pid is None else parent_pid
    try:
        _start_unless_alive(session_dir, parent)
    except OSError as error:
        warnings.warn(
            f"wandb is not fed, the records stay in {session_dir}: the follower did not start: "
            f"{error}",
            RuntimeWarning,
            stacklevel=2,
        )


def _start_unless_alive(session_dir: Path, parent: int) -> None:
    lock = _open_lock(session_dir)
    try:
        if _try_lock(lock):
            _spawn(session_dir, parent, _attempt_at_hand(session_dir), lock=lock)
        elif _read_owner(lock) != parent:
            _spawn(session_dir, parent, _attempt_at_hand(session_dir), lock=None)
    finally:
        # The lock itself stays with the follower, which holds the same open file.
        os.close(lock)


def wait_for_follower(session_dir: Path, timeout_s: float) -> bool:
    """Waits until no follower lives, at most so long; returns whether none does.

    It ends soon after the attempt's outcome is written, so wait after that. **Ranks:** main.
    """
    deadline = time.monotonic() + timeout_s
    try:
        lock = _open_lock(session_dir)
    except OSError:
        return False
    try:
        while not _try_lock(lock):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        return True
    finally:
        os.close(lock)


def main(arguments: Sequence[str] | None = None) -> int:
    """Follows until the parent's attempt ends; whatever fails is one line in the log."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    os.nice(10)
    options = _parse(arguments)
    lock = _open_lock(options.session_dir) if options.lock is None else options.lock
    os.set_inheritable(lock, False)
    fcntl.flock(lock, fcntl.LOCK_EX)
    _write_owner(lock, options.parent)

    # Imported late: from here on signals no longer end this process.
    from phaseline.tracking.following import Following

    following = Following(options.session_dir, parent_pid=options.parent, attempt=options.attempt)
    try:
        following.run()
    except Exception as error:  # noqa: BLE001  # Whatever it is, training does not see it.
        can_try_again = following.is_sending and options.breakdowns < _MOST_BREAKDOWNS
        then = "a new follower goes on" if can_try_again else "the records stay in the session"
        _say(f"the feed to wandb broke, {then}: {type(error).__name__}: {_first_line(error)}")
        if can_try_again:
            _spawn(
                options.session_dir,
                options.parent,
                options.attempt,
                lock=lock,
                breakdowns=options.breakdowns + 1,
            )
        # wandb's own exit handlers would wait for what is broken.
        os._exit(1)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m phaseline.tracking.follower")
    parser.add_argument("session_dir", type=Path)
    parser.add_argument("--parent", type=int, required=True, help="its death ends the following")
    parser.add_argument("--attempt", type=int, default=1, help="its outcome ends it as well")
    parser.add_argument("--lock", type=int, help="descriptor that holds the follower's lock")
    parser.add_argument("--breakdowns", type=int, default=0, help="how often wandb broke down")
    return parser.parse_args(arguments)


def _attempt_at_hand(session_dir: Path) -> int:
    """The newest attempt, or the one to come if that has ended already."""
    layout = SessionLayout(session_dir)
    newest = max(layout.attempt_numbers(), default=0)
    is_over = newest == 0 or read_outcome(layout.attempt(newest)) is not None
    return newest + is_over


def _spawn(
    session_dir: Path, parent: int, attempt: int, *, lock: int | None, breakdowns: int = 0
) -> None:
    command = [sys.executable, "-m", "phaseline.tracking.follower", str(session_dir.absolute())]
    command += ["--parent", str(parent), "--attempt", str(attempt)]
    command += ["--breakdowns", str(breakdowns)]
    command += [] if lock is None else ["--lock", str(lock)]
    # A wandb service of the parent's own would end with the parent.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_SERVICE")}
    with (_folder(session_dir) / "follower.log").open("ab") as log:
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
        _write_owner(lock, parent)
    # It is meant to outlive its handle, so nothing is to be said when that is collected.
    process.returncode = 0


def _folder(session_dir: Path) -> Path:
    folder = session_dir / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _open_lock(session_dir: Path) -> int:
    return os.open(_folder(session_dir) / "follower.lock", os.O_RDWR | os.O_CREAT, 0o644)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_owner(lock: int, parent: int) -> None:
    os.pwrite(lock, f"{parent:<20}\n".encode(), 0)


def _read_owner(lock: int) -> int | None:
    text = os.pread(lock, 20, 0).strip()
    return int(text) if text.isdigit() else None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
