"""The starts of a job before this one, and what they say about going on."""

from __future__ import annotations

import time
from contextlib import suppress

from phaseline.cluster import slurm
from phaseline.cluster.job_end import JobEnd, Next
from phaseline.cluster.progress import EndedStart, why_give_up
from phaseline.cluster.slurm import JobPlace
from phaseline.errors import ExitCode, PhaselineError
from phaseline.session.attempts import (
    ErrorRecord,
    Outcome,
    last_place,
    read_outcome,
    write_error,
    write_outcome,
)
from phaseline.session.jobs import JobStart, list_job_starts, write_job_start
from phaseline.session.layout import AttemptLayout, SessionLayout


class JobHistory:
    """The line of starts that go on by themselves: of one job, or of a chain of jobs."""

    def __init__(self, layout: SessionLayout, *, line: str) -> None:
        """Takes the session and what its line is called."""
        self._layout = layout
        self.line = line

    def starts(self) -> list[JobStart]:
        """All starts of this line, oldest first."""
        return [start for start in list_job_starts(self._layout) if start.line == self.line]

    def has_later_start(self, place: JobPlace) -> bool:
        """Whether a later start of the same job is on record."""
        return any(
            start.job_id == place.job_id and start.restart > place.restart
            for start in self.starts()
        )

    def last_word(self, place: JobPlace) -> JobEnd | None:
        """How the line ended, if another job before this one was its last.

        The same job was started again by somebody who wanted that.
        """
        for start in self.starts():
            if start.is_last and start.code is not None and start.job_id != place.job_id:
                code = ExitCode(start.code)
                message = f"Job {start.job_id} ended this line of jobs with exit code {int(code)}."
                return JobEnd(code, message, Next.OVER)
        return None

    def close_what_was_cut_off(self, place: JobPlace) -> None:
        """Says of starts whose watcher was killed with its node what can still be found out."""
        for start in self.starts():
            is_own = (start.job_id, start.restart) == (place.job_id, place.restart)
            if start.ended is not None or is_own:
                continue
            down = slurm.down_nodes(start.nodes)
            cause = f"node failure: {down[0]}" if down else "ended by SLURM without notice"
            if down:
                self.record_node_failure(start, cause)
            self.note(start.over(ExitCode.FAILED, cause, at=time.time(), is_last=False))

    def note(self, start: JobStart) -> str:
        """Puts a start on record; returns why it cannot, or an empty text.

        On a full disk, say: the job must be seen to all the same.
        """
        try:
            write_job_start(self._layout, start)
        except OSError as error:
            return f"{self._layout.jobs_dir} cannot be written: {error}"
        return ""

    def why_give_up(self, limit: int) -> str:
        """What the last starts died of, if as many as may be left no new checkpoint."""
        ended: list[EndedStart] = []
        for start in self.starts():
            if start.ended is not None:
                ended.append(EndedStart.of(start))
            if start.is_last:
                # What came after it somebody wanted.
                ended = []
        return why_give_up(self._layout, ended, limit=limit)

    def record_node_failure(self, start: JobStart, cause: str) -> None:
        """Names a node that failed as the first failure of the start's attempt."""
        attempt = self._newest(start.since)
        if attempt is None or read_outcome(attempt) is not None:
            return
        node = cause.rpartition(" ")[2]
        names = slurm.host_names(start.nodes)
        phase, step = last_place(attempt)
        with suppress(OSError, PhaselineError):
            write_error(
                attempt,
                ErrorRecord(
                    rank=_first_rank(names.index(node) if node in names else 0, names, attempt),
                    host=node,
                    phase=phase,
                    step=step,
                    kind="NodeFailure",
                    message=f"{node} no longer answers SLURM",
                    traceback="",
                    consequence=False,
                    time=time.time(),
                ),
            )

    def record_giving_up(self, reason: str) -> None:
        """Lets the last attempt say that there will be no other."""
        attempt = self._newest(0)
        if attempt is not None and read_outcome(attempt) is None:
            with suppress(OSError):
                write_outcome(attempt, Outcome(ExitCode.NO_PROGRESS, reason, time.time()))

    def _newest(self, since: int) -> AttemptLayout | None:
        numbers = [number for number in self._layout.attempt_numbers() if number > since]
        return self._layout.attempt(numbers[-1]) if numbers else None


def _first_rank(node_idx: int, names: list[str], attempt: AttemptLayout) -> int:
    """The lowest rank of a node: every node has as many as the others."""
    num_ranks = len(list(attempt.dir.glob("rank-*.log")))
    return node_idx * (num_ranks // len(names)) if names else 0
