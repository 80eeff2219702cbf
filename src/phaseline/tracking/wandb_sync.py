"""Building a session's whole wandb run from its records."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from phaseline.errors import PhaselineError, SessionBusyError, UsageError
from phaseline.tracking.follower_lock import in_place_of_follower
from phaseline.tracking.following import Feed, read_session
from phaseline.tracking.tracker import WANDB


class SyncError(PhaselineError):
    """The run could not be sent now."""


def sync_session(
    session_dir: Path,
    *,
    mode: Literal["offline", "online"] = "online",
    say: Callable[[str], None],
) -> None:
    """Sends what the run lacks, however many attempts and offline folders there are.

    It reads only the session's records, and asks the server where to go on; so it may be cut
    off and called again, and while the session runs it sends what there is so far.

    Args:
        session_dir: The session's directory.
        mode: offline: into a folder of wandb's, for `wandb sync` on another machine.
        say: Shows a line to a person.

    Raises:
        SessionBusyError: Another process feeds the run.
        UsageError: There is no session, or wandb takes nothing from here, as without a key.
        SyncError: wandb does not answer.
    """
    session = read_session(session_dir, folder=session_dir / "synced" / WANDB)
    section = session.config.tracking.wandb
    # Not above: wandb takes seconds.
    from phaseline.tracking.wandb_run import WandbRefusal, WandbRun, WandbTrouble

    with _alone(session.folder), _instead_of_follower(session_dir, is_rival=section.mode == mode):
        feed = Feed(WandbRun(mode), session)
        try:
            feed.send_new()
            feed.close()
        except WandbRefusal as error:
            raise UsageError(
                f"wandb refuses: {error} Log in with `wandb login`, set WANDB_API_KEY, or give "
                "--offline for files that `wandb sync` sends from another machine."
            ) from error
        except WandbTrouble as error:
            raise SyncError(
                f"wandb cannot be reached or does not answer: {str(error).strip()} Nothing is "
                "lost: the same command goes on where the run ends. --offline needs no network."
            ) from error
    if not feed.was_opened:
        say(f"{session.identity.name}: nothing is recorded yet, so nothing was sent")
        return
    where = session.folder if mode == "offline" else f"project {section.project}"
    say(f"{session.identity.name}: run {session.identity.wandb_id} is complete in {where}")


@contextmanager
def _instead_of_follower(session_dir: Path, *, is_rival: bool) -> Iterator[None]:
    """A follower that feeds the same run is not joined; one that starts meanwhile waits."""
    if not is_rival:
        yield
        return
    with in_place_of_follower(session_dir, WANDB) as is_alone:
        if not is_alone:
            raise SessionBusyError(
                f"A follower feeds the run of {session_dir} now. Two would send steps twice: wait "
                "until the session has ended."
            )
        yield


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "sync.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise SessionBusyError(
            f"Another `phaseline sync` of {folder.parent.parent} runs. Wait for it."
        ) from error
    finally:
        os.close(lock)
