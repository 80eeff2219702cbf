"""Writing where all threads of this process are, also while its main thread hangs."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from phaseline.session.layout import AttemptLayout
from phaseline.session.stack_request import LOOK_EVERY_S, request_file, stacks_file


@contextmanager
def watching_for_stacks(attempt: AttemptLayout, rank: int) -> Iterator[None]:
    """While it lasts, SIGQUIT and `phaseline stacks` make this rank write its stacks.

    The signal is handled below Python, so it is answered even by a thread that never lets go
    of the interpreter. The request is found by a thread, as nobody else looks while a
    collective hangs. **Ranks:** all.

    Args:
        attempt: The attempt at hand.
        rank: This process's.
    """
    attempt.stacks_dir.mkdir(exist_ok=True)
    path = stacks_file(attempt, rank)
    done = threading.Event()
    # Signals may come before anybody looks at the file, so it must exist from the beginning.
    with path.open("a", encoding="utf-8") as file:
        faulthandler.register(signal.SIGQUIT, file=file, all_threads=True)
        watch = threading.Thread(
            target=_look_out,
            args=(request_file(attempt), _version(request_file(attempt)), file, done),
            name="phaseline-stacks",
            daemon=True,
        )
        watch.start()
        try:
            yield
        finally:
            done.set()
            watch.join()
            faulthandler.unregister(signal.SIGQUIT)


def _look_out(request: Path, seen: int, file: TextIO, done: threading.Event) -> None:
    while not done.wait(LOOK_EVERY_S):
        version = _version(request)
        if version != seen:
            seen = version
            clock = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(f"-- {clock}, pid {os.getpid()}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)


def _version(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
