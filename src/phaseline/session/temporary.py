"""A process's folder for temporary files, which the next start removes if the process is killed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from phaseline.session.lease import LeaseOwner

_NAME = re.compile(
    r"phaseline-(?P<host>[0-9a-f]{8})-(?P<boot>[0-9a-f]{8})-(?P<pids>[0-9a-f]{8})"
    r"-(?P<pid>\d{1,10})-(?P<start>\d{1,20})-\w+",
    re.ASCII,
)


@contextmanager
def own_temporary_folder() -> Iterator[Path]:
    """Makes a folder in the system's temporary one, and removes it at the end.

    Before, it removes those of this user's processes that are certainly dead: of an earlier boot
    of this machine, or gone where their ids can be looked up. The name says whose each is.
    """
    base = Path(tempfile.gettempdir())
    if _NAME.fullmatch(base.name):
        base = base.parent  # the parent of this process has one of its own
    with suppress(OSError):
        _remove_left_over(base)
    owner = LeaseOwner.of_this_process()
    words = (*_place(owner), str(owner.pid), str(owner.process_start), "")
    folder = Path(tempfile.mkdtemp(prefix="-".join(("phaseline", *words)), dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def libraries_in_own_folder() -> Iterator[Path]:
    """Has libraries of this process, and processes that it starts, make their files in one."""
    before = os.environ.get("TMPDIR")
    with own_temporary_folder() as folder:
        os.environ["TMPDIR"] = str(folder)
        tempfile.tempdir = None  # it is looked up again
        try:
            yield folder
        finally:
            tempfile.tempdir = None
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before


def _remove_left_over(base: Path) -> None:
    me = LeaseOwner.of_this_process()
    host, boot, pids = _place(me)
    for path in base.iterdir():
        found = _NAME.fullmatch(path.name)
        if found is None or found["host"] != host:
            continue
        if found["boot"] == boot:
            there = replace(me, pid=int(found["pid"]), process_start=int(found["start"]))
            # Another container's processes cannot be looked up from here.
            if found["pids"] != pids or not there.is_certainly_dead(me):
                continue
        with suppress(OSError):
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
                shutil.rmtree(path, ignore_errors=True)


def _place(owner: LeaseOwner) -> tuple[str, str, str]:
    """Host, boot and namespace of process ids, short enough for a name."""
    host, boot, pids = (
        hashlib.blake2b(text.encode(errors="replace"), digest_size=4).hexdigest()
        for text in (owner.host, owner.boot_id, owner.pid_namespace)
    )
    return host, boot, pids
