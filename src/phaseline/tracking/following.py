"""Sending the session's metrics view to wandb, each record exactly once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from phaseline.config.resolved import from_yaml
from phaseline.errors import SessionError
from phaseline.session.attempts import read_outcome
from phaseline.session.identity import SessionIdentity, load_identity
from phaseline.session.layout import SessionLayout
from phaseline.tracking.parent_watch import ParentWatch
from phaseline.tracking.view_tail import ViewTail
from phaseline.tracking.wandb_service import await_former_service, note_service

if TYPE_CHECKING:
    from phaseline.tracking.wandb_run import WandbRun

_POLL_S = 0.5


class Following:
    """Follows a session until its attempt ends, then sends what is left and closes the run."""

    def __init__(self, session_dir: Path, *, parent_pid: int, attempt: int) -> None:
        """Begins to watch the parent; sends nothing yet.

        Args:
            session_dir: The session's directory.
            parent_pid: The process whose death ends the following.
            attempt: The attempt whose outcome ends it as well, or that of a later one.
        """
        self._layout = SessionLayout(session_dir)
        self._parent_pid = parent_pid
        self._parent = ParentWatch(parent_pid)
        self._attempt = attempt
        self._view = ViewTail(self._layout)
        self._wandb_run: WandbRun | None = None
        self._last_sent = -1

    @property
    def is_sending(self) -> bool:
        """Whether wandb took up the run, so that it can only have broken down since."""
        return self._wandb_run is not None

    def run(self) -> None:
        """Follows to the end. wandb's own errors pass through."""
        from phaseline.tracking.wandb_run import read_last_step

        await_former_service(self._layout.root)
        self._last_sent = read_last_step(self._layout.root, self._identity().wandb_id)
        is_over = False
        while not is_over:
            # Asked before reading: what was recorded before the end is read after it.
            is_over = self._is_attempt_over() or self._parent.is_gone_within(_POLL_S)
            self._send_new()
        if self._wandb_run is not None:
            self._wandb_run.finish()

    def _send_new(self) -> None:
        for record in self._view.read_new():
            # A restart trains again, bit for bit, what was recorded after its checkpoint.
            if record["seq"] <= self._last_sent:
                continue
            run = self._wandb_run or self._open()
            if record["seq"] > self._last_sent:
                run.log(record)
                self._last_sent = record["seq"]

    def _open(self) -> WandbRun:
        from phaseline.tracking.wandb_run import WandbRun

        root = self._layout.root
        config = from_yaml(self._layout.config_file.read_text(encoding="utf-8"))
        run = WandbRun.open(root, self._identity(), config, watched_pid=self._parent_pid)
        note_service(root)
        # Online, the server may know of steps that a killed wandb never wrote to its file.
        self._last_sent = max(self._last_sent, run.last_step_on_server)
        self._wandb_run = run
        return run

    def _identity(self) -> SessionIdentity:
        identity = load_identity(self._layout)
        if identity is None:
            raise SessionError(f"{self._layout.root} holds no session: session.json is missing.")
        return identity

    def _is_attempt_over(self) -> bool:
        newest = max(self._layout.attempt_numbers(), default=0)
        return newest >= self._attempt and read_outcome(self._layout.attempt(newest)) is not None
