"""Who may write to a session: one process at a time, also over machines.

The lease is a chain of numbered files in `lease/`. The highest number says who holds it.
Whoever wants to change that writes the next number, which only one process can do; so two
starters that both saw a dead owner cannot both succeed. Numbers are never used again: the
highest file is only removed after a higher one exists, and giving the lease back writes the
next number, too.

The owner touches its own file as a heartbeat. Nobody ever rewrites a file, so an owner that
was declared dead and wakes up can harm nothing but its own, superseded file.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile

from phaseline.errors import SessionBusyError
from phaseline.session import linux
from phaseline.session.files import write_json_once
from phaseline.session.layout import SessionLayout
from phaseline.session.stored import Count, StoredFileError, read_stored

HEARTBEAT_S = 10.0
STALE_AFTER_S = 60.0
_NAME = re.compile(r"\d{8,12}\.json", re.ASCII)
_LAST_NUMBER = 10**12 - 1
_REMEDY = "Make sure that no process uses the session, then remove the file."


@dataclass(frozen=True)
class LeaseOwner:
    """A process, named so that no other process ever has the same name.

    Attributes:
        host: Its machine.
        pid: Its id there.
        process_start: When it started there; survives exec.
        boot_id: The machine's boot.
        pid_namespace: What the id counts in.
        job_id: Its SLURM job, if any.
        restart_count: How often SLURM has requeued that job.
        attempt: The attempt it goes on with, where it is known.
    """

    host: str
    pid: Count
    process_start: Count
    boot_id: str
    pid_namespace: str
    job_id: str | None
    restart_count: Count
    attempt: Count | None

    @classmethod
    def of_this_process(cls, attempt: int | None = None) -> LeaseOwner:
        """Describes the calling process."""
        start = linux.process_start(os.getpid())
        assert start is not None
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            process_start=start,
            boot_id=linux.boot_id(),
            pid_namespace=linux.pid_namespace(),
            job_id=os.environ.get("SLURM_JOB_ID"),
            restart_count=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            attempt=attempt,
        )

    def is_same_process(self, other: LeaseOwner) -> bool:
        """Whether both are one process, perhaps before and after exec."""
        return self._is_same_boot(other) and (self.pid, self.process_start) == (
            other.pid,
            other.process_start,
        )

    def is_certainly_dead(self, seen_by: LeaseOwner) -> bool:
        """Whether the process that looks can tell for sure that this one is gone."""
        if self.host != seen_by.host:
            return False
        if self.boot_id != seen_by.boot_id:
            return True
        # Another container's processes cannot be looked up from here.
        is_visible = self.pid_namespace == seen_by.pid_namespace
        return is_visible and linux.process_start(self.pid) != self.process_start

    def is_certainly_alive(self, seen_by: LeaseOwner) -> bool:
        """Whether the process that looks can tell for sure that this one runs."""
        return self._is_same_boot(seen_by) and not self.is_certainly_dead(seen_by)

    def _is_same_boot(self, other: LeaseOwner) -> bool:
        return (self.host, self.boot_id, self.pid_namespace) == (
            other.host,
            other.boot_id,
            other.pid_namespace,
        )

    def __str__(self) -> str:
        job = f" (SLURM job {self.job_id})" if self.job_id else ""
        return f"process {self.pid} on {self.host}{job}"


@dataclass(frozen=True)
class LeaseState:
    """What the chain's highest file says.

    Attributes:
        number: The file's number.
        owner: Who holds the lease; None: it was given back.
        touched: Time of the last heartbeat, by the clock of the file system.
    """

    number: int
    owner: LeaseOwner | None
    touched: float

    def is_held(self) -> bool:
        """Whether the owner runs, as far as can be told from here."""
        if self.owner is None:
            return False
        me = LeaseOwner.of_this_process()
        if self.owner.is_certainly_dead(me):
            return False
        return self.owner.is_certainly_alive(me) or self.silent_s() <= STALE_AFTER_S

    def silent_s(self) -> float:
        """Seconds since the last heartbeat, by this machine's clock."""
        return max(0.0, time.time() - self.touched)


@dataclass(frozen=True)
class _LeaseFile:
    """What a file of the chain holds."""

    owner: LeaseOwner | None


def read_lease(layout: SessionLayout) -> LeaseState | None:
    """Returns who holds the session, or held it last; None if nobody ever did.

    Raises:
        SessionError: The file is damaged, or of another version.
    """
    while numbers := _numbers(layout.lease_dir):
        path = _file(layout.lease_dir, max(numbers))
        try:
            owner = read_stored(path, _LeaseFile, remedy=_REMEDY).owner
            return LeaseState(max(numbers), owner, path.stat().st_mtime)
        except FileNotFoundError:
            if path.is_symlink():
                raise StoredFileError(f"{path} is a link that leads nowhere. {_REMEDY}") from None
            continue  # removed just now, because there is a higher one
    return None


class Lease:
    """The right to write to a session, kept alive by a thread until it is given back."""

    def __init__(self, folder: Path, number: int, *, heartbeat_s: float) -> None:
        """Starts the heartbeat of a lease that was taken; see `acquire`."""
        self.lost = threading.Event()
        """Set once another process holds the session, or it lies elsewhere: nothing may be
        written any more."""
        self.is_moved = False
        """Whether it is lost because the session's directory is not where it was."""
        self._folder = folder
        # Held open: so its number is not given to another one, and stays the same also where a
        # file system makes numbers up.
        self._directory: int | None = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._number = number
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._keep_alive, args=(heartbeat_s,), name="lease", daemon=True
        )
        self._thread.start()

    @classmethod
    def acquire(
        cls, layout: SessionLayout, *, take_over: bool = False, heartbeat_s: float = HEARTBEAT_S
    ) -> Lease:
        """Takes the session's lease.

        Args:
            layout: The session.
            take_over: Take it even from a process that may be alive.
            heartbeat_s: Seconds between two heartbeats.

        Raises:
            SessionBusyError: Another process holds it.
            SessionError: The lease cannot be read.
        """
        layout.lease_dir.mkdir(parents=True, exist_ok=True)
        me = LeaseOwner.of_this_process()
        while True:
            state = read_lease(layout)
            if state is not None and state.owner is not None and not take_over:
                age_s = max(0.0, _file_system_time(layout.lease_dir) - state.touched)
                if not _is_free(state.owner, age_s, me):
                    raise SessionBusyError(_describe_busy(layout, state.owner, age_s, me))
            number = 1 if state is None else state.number + 1
            if number > _LAST_NUMBER:
                raise StoredFileError(
                    f"{_file(layout.lease_dir, _LAST_NUMBER)} has a number that no session "
                    f"reaches: somebody made that file. {_REMEDY}"
                )
            if _add_to_chain(layout.lease_dir, number, me):
                return cls(layout.lease_dir, number, heartbeat_s=heartbeat_s)

    def stop(self) -> None:
        """Ends the heartbeat and keeps the lease: the next image of this process takes it."""
        self._stopped.set()
        self._thread.join()
        if self._directory is not None:
            directory, self._directory = self._directory, None
            os.close(directory)

    def release(self) -> None:
        """Ends the heartbeat and gives the lease back, unless another process has taken it."""
        self.stop()
        if self.is_moved:
            return  # what lies there now is not this session
        # On a full disk, say, it cannot be given back. That this process ends frees it too.
        with suppress(OSError):
            _add_to_chain(self._folder, self._number + 1, None)

    def is_lost(self) -> bool:
        """Looks, now, whether another process took the session, or whether it was moved away.

        What is lost stays lost.
        """
        with suppress(OSError):  # a file system that does not answer now may answer next time
            self._look()
        return self.lost.is_set()

    def _look(self) -> None:
        self.is_moved = self.is_moved or self._is_elsewhere()
        if self.is_moved or self._is_overtaken():
            self.lost.set()

    def _is_elsewhere(self) -> bool:
        """Whether the path of the lease leads to nothing, or to another directory than before."""
        if self._directory is None:
            return False
        held = os.fstat(self._directory)
        try:
            there = self._folder.stat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        return (there.st_dev, there.st_ino) != (held.st_dev, held.st_ino)

    def _is_overtaken(self) -> bool:
        return max(_numbers(self._folder), default=0) > self._number

    def _keep_alive(self, heartbeat_s: float) -> None:
        path = _file(self._folder, self._number)
        while not self._stopped.wait(heartbeat_s):
            with suppress(OSError):  # as above
                self._look()
                if not self.lost.is_set():
                    _touch(path, self.lost)
            if self.lost.is_set():
                return


def _touch(path: Path, lost: threading.Event) -> None:
    """Gives a sign of life; a file that is gone was removed because there is a higher one."""
    try:
        os.utime(path)
    except FileNotFoundError:
        lost.set()


def _is_free(owner: LeaseOwner, age_s: float, me: LeaseOwner) -> bool:
    """Whether the owner has no more right to the lease."""
    if owner.is_same_process(me) or owner.is_certainly_dead(me):
        return True
    is_same_job = owner.job_id is not None and owner.job_id == me.job_id
    if is_same_job and owner.restart_count > me.restart_count:
        return False  # a start that lives on behind a cut takes nothing from the one after it
    if owner.is_certainly_alive(me):
        # A job that was requeued may find ranks of its last run. But two starts by hand in
        # one allocation are two owners.
        return is_same_job and owner.restart_count < me.restart_count
    return is_same_job or age_s > STALE_AFTER_S


def _describe_busy(layout: SessionLayout, owner: LeaseOwner, age_s: float, me: LeaseOwner) -> str:
    remedy = "Stop that process first, or take the session from it with --take-over."
    if not owner.is_certainly_alive(me):
        remedy = (
            f"Stop that process first. If it is gone, the session is free {STALE_AFTER_S:.0f} s "
            "after that sign; --take-over takes it now."
        )
    return (
        f"The session at {layout.root} is in use by {owner}; its last sign of life is "
        f"{age_s:.0f} s old. {remedy}"
    )


def _add_to_chain(folder: Path, number: int, owner: LeaseOwner | None) -> bool:
    """Writes the next file of the chain; False if another process was faster."""
    path = _file(folder, number)
    if not write_json_once(path, {"owner": None if owner is None else asdict(owner)}):
        return False
    numbers = _numbers(folder)
    if max(numbers, default=number) > number:
        # The number had been used and removed since this process looked.
        path.unlink(missing_ok=True)
        return False
    for old in numbers:
        if old < number:
            _file(folder, old).unlink(missing_ok=True)
    return True


def _numbers(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    numbers = [int(name.partition(".")[0]) for name in names]
    # A number in other digits, as 000000007, was not written here, and its file is not found.
    return [number for number, name in zip(numbers, names, strict=True) if _name(number) == name]


def _file(folder: Path, number: int) -> Path:
    return folder / _name(number)


def _name(number: int) -> str:
    return f"{number:08d}.json"


def _file_system_time(folder: Path) -> float:
    """The time that a file written now gets: the clock that heartbeats are told by."""
    with TemporaryFile(dir=folder) as probe:
        return os.fstat(probe.fileno()).st_mtime
