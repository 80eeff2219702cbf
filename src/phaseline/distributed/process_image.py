"""Replacing a rank's process image, so that every phase starts in a fresh one.

The process keeps its id and its parent, the launcher; memory, threads and libraries'
hidden state go. What must not go is handed over in the environment.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from phaseline.distributed.environment import (
    ATTEMPT_VARIABLE,
    IMAGE_VARIABLE,
    SESSION_VARIABLE,
)
from phaseline.distributed.world import World
from phaseline.session import linux


def replace_image(
    world: World,
    *,
    attempt: int,
    session_dir: Path,
    stop_signal: Callable[[], int | None],
    keep: Sequence[int] = (),
) -> NoReturn:
    """Ends the world and runs this process's own command again, one image later.

    Everything that owns a thread, a child or a file must be closed before: exec runs
    neither `finally` blocks nor `atexit`. **Ranks:** all.

    Args:
        world: The world to end; every rank leaves it together.
        attempt: The attempt that the next image goes on with.
        session_dir: The session's directory, whose stored configuration is read from now on.
        stop_signal: The signal that asked this image to stop and was not yet obeyed, or None.
        keep: File descriptors that the next image gets, besides the standard ones.
    """
    # A stop request that comes while no handler exists would kill the next image. Blocked
    # signals stay pending over exec; the next image lets them in when it can listen.
    linux.block_stop_signals()
    image = world.environment.image
    world.close()
    sys.stdout.flush()
    sys.stderr.flush()
    # The sockets of gloo and of the store are not close-on-exec: without this every image
    # would keep the old ones, and peers would never see them close.
    linux.set_close_on_exec_from(3)
    for descriptor in keep:
        os.set_inheritable(descriptor, True)
    environment = {
        **os.environ,
        IMAGE_VARIABLE: str(image + 1),
        ATTEMPT_VARIABLE: str(attempt),
        SESSION_VARIABLE: str(session_dir.resolve()),
    }
    # Blocking covers this thread only. What came before, or reached a thread of a library
    # since, is known to this image alone: sent again, it stays pending for the next.
    number = stop_signal()
    if number is not None:
        signal.pthread_kill(threading.get_ident(), number)
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
