"""What only Linux can do, in one place; elsewhere a fallback says what is missing.

The fallbacks keep the plain engine usable for development. Sessions that must survive
being killed belong on Linux.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_IS_LINUX = sys.platform == "linux"
# Loaded now: between fork and exec, where it is needed, loading would not be safe.
_LIBC = ctypes.CDLL(None, use_errno=True) if _IS_LINUX else None
_PR_SET_PDEATHSIG = 1
_ORPHAN_EXIT_CODE = 113
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What asks a process to save and stop; SIGHUP is what a terminal sends that is closed."""
_AGENT_VARIABLE = "TORCHELASTIC_RUN_ID"
_LAUNCHERS = (b"accelerate", b"torchrun", b"torch.distributed", b"phaseline")


def process_start(pid: int) -> int | None:
    """When a process started, in ticks since boot; None if it does not run.

    With the process id this names a process for good: the id alone is given out again. It
    stays the same over exec. A zombie does not run.
    """
    if not _IS_LINUX:
        return _process_start_elsewhere(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name stands in parentheses and may itself hold any character.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def count_launched_siblings() -> int | None:
    """How many ranks run that the parent of this one has started, this one included.

    None where that cannot be told: torch's agent is not the parent, or the kernel does not list
    a process's children.
    """
    if not _IS_LINUX or _AGENT_VARIABLE not in os.environ:
        return None
    found = 0
    try:
        for listing in Path(f"/proc/{os.getppid()}/task").glob("*/children"):
            found += sum(map(_is_rank, listing.read_text(encoding="ascii").split()))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return found or None


def boot_id() -> str:
    """Names this boot of this machine; empty where there is no such name."""
    return _read_or_empty(Path("/proc/sys/kernel/random/boot_id"))


def pid_namespace() -> str:
    """Names the namespace that process ids count in; empty where there is only one."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def die_with_parent() -> None:
    """Makes the kernel kill this process when its parent dies, and ends it if that was before.

    Holds over exec, not over fork. Call it first thing in a process.
    """
    if _LIBC is None:
        _warn_missing("prctl", "a process does not end when the one that started it is killed")
        return
    parent = os.getppid()
    if _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    # The parent may have died before the kernel was told.
    if os.getppid() != parent or (parent == 1 and _is_orphan_of_init()):
        os._exit(_ORPHAN_EXIT_CODE)


def set_close_on_exec_from(first_fd: int = 3) -> None:
    """Makes every open file descriptor from this one on close at exec."""
    for descriptor in _descriptors_from(first_fd):
        with suppress(OSError):  # the listing's own descriptor is closed by now
            os.set_inheritable(descriptor, False)


def close_all_but(kept: int, first_fd: int = 3) -> None:
    """Closes every open file descriptor from this one on, except one.

    What is open is listed: where the limit on descriptors is a billion, trying all numbers
    takes a minute.
    """
    for descriptor in _descriptors_from(first_fd):
        if descriptor != kept:
            with suppress(OSError):
                os.close(descriptor)


def _descriptors_from(first_fd: int) -> list[int]:
    listing = Path("/proc/self/fd" if _IS_LINUX else "/dev/fd")
    return [number for path in listing.iterdir() if (number := int(path.name)) >= first_fd]


def pidfd_open(pid: int) -> int:
    """Returns a file descriptor that becomes readable when the process ends.

    Raises:
        ProcessLookupError: There is no such process.
        NotImplementedError: This system has no such call.
    """
    if sys.platform == "linux":
        return os.pidfd_open(pid)
    raise NotImplementedError(
        "pidfd_open needs Linux 5.3, so the end of another process cannot be waited for here. "
        "Compare `process_start` now and then."
    )


def return_free_memory() -> None:
    """Gives memory back to the system that was freed; glibc keeps it otherwise.

    Elsewhere nothing is done: other C libraries have no such call.
    """
    if _LIBC is not None and hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


def block_stop_signals() -> None:
    """Keeps stop signals pending, over exec as well, until they are unblocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def unblock_stop_signals() -> None:
    """Lets stop signals in. Those that came meanwhile are delivered now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextmanager
def stop_signals_held() -> Iterator[None]:
    """Keeps stop signals pending as long as the block lives.

    What is started in it never gets one: it inherits that they are held, and a new program
    keeps that. So a helper process leaves it to the one that started it when to stop.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stop_signals() -> None:
    """Makes this process deaf to stop signals, also to those that are pending. For children."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    unblock_stop_signals()


def end_with(parent: int) -> None:
    """As `die_with_parent`, for a process that was forked and so knows its parent's id."""
    die_with_parent()
    # The parent may have died before this process first ran.
    if os.getppid() != parent:
        os._exit(_ORPHAN_EXIT_CODE)


def _is_orphan_of_init() -> bool:
    """Whether the launcher's agent started this process and process 1 is no launcher.

    In a container the launcher may be process 1; a service manager may run a single rank.
    """
    if _AGENT_VARIABLE not in os.environ:
        return False
    command = _read_or_empty(Path("/proc/1/cmdline")).encode()
    return not any(name in command for name in _LAUNCHERS)


def _is_rank(pid: str) -> bool:
    """Whether a running process was started as a rank; of a zombie nothing can be read."""
    try:
        return b"LOCAL_RANK=" in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _read_or_empty(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _process_start_elsewhere(pid: int) -> int | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time())
    except psutil.Error:
        return None


def _warn_missing(call: str, effect: str) -> None:
    warnings.warn(f"{sys.platform} has no {call}: {effect}.", RuntimeWarning, stacklevel=3)
