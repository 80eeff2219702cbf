"""Starts of a session as a job of a batch system sees them: one file per start.

An attempt begins when the main rank has the session. A start begins earlier, when SLURM runs
the job, and it is told from outside: also of ranks that never came to an attempt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated

from pydantic import AfterValidator, Field

from phaseline.errors import ExitCode
from phaseline.session.files import write_json
from phaseline.session.layout import SessionLayout
from phaseline.session.stored import Count, UnixTime, read_stored

_NAME = re.compile(r"(?P<job>\d+)-(?P<restart>\d+)\.json", re.ASCII)
_REMEDY = "Remove it: only the history of jobs is told from it."
JobId = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]
"""SLURM's number of a job: SLURM's commands are called with it."""


def _exit_code(code: int) -> int:
    return int(ExitCode(code))


@dataclass(frozen=True, kw_only=True)
class JobStart:
    """One start of a job.

    Attributes:
        job_id: SLURM's number of the job.
        restart: How often SLURM had started it before.
        line: The same for all starts that go on by themselves: a job, or a chain of jobs.
        nodes: The nodes, as SLURM writes them.
        began: Unix time, seconds.
        slot_ends: When SLURM ends the job; None: never, or not known.
        since: The newest attempt before this start; its own come after.
        checkpoint: The newest checkpoint when it began.
        ended: Unix time; None: it runs, or was ended together with whatever watched it.
        code: The exit code that stands for its end.
        cause: What ended it.
        is_last: Whether the line ends here, whatever the code is.
    """

    job_id: JobId
    restart: Count
    line: str
    nodes: str
    began: UnixTime
    slot_ends: UnixTime | None
    since: Count
    checkpoint: str | None
    ended: UnixTime | None = None
    code: Annotated[int, AfterValidator(_exit_code)] | None = None
    cause: str = ""
    is_last: bool = False

    def over(self, code: ExitCode, cause: str, *, at: float, is_last: bool) -> JobStart:
        """The same start, now that it is over."""
        return replace(self, ended=at, code=int(code), cause=cause, is_last=is_last)


@dataclass(frozen=True)
class _Submitted:
    """What `submitted.json` holds."""

    jobs: list[JobId]


def write_job_start(layout: SessionLayout, start: JobStart) -> None:
    """Records a start in place of what was said of it before. Its watcher alone calls it."""
    layout.jobs_dir.mkdir(parents=True, exist_ok=True)
    write_json(layout.job_file(start.job_id, start.restart), asdict(start))


def read_job_start(layout: SessionLayout, job_id: str, restart: int) -> JobStart | None:
    """Returns a start; None if there is no record of it.

    Raises:
        SessionError: The record is damaged, or of another version.
    """
    path = layout.job_file(job_id, restart)
    try:
        return read_stored(path, JobStart, remedy=_REMEDY)
    except FileNotFoundError:
        return None


def list_job_starts(layout: SessionLayout) -> list[JobStart]:
    """Every start on record, oldest first."""
    if not layout.jobs_dir.is_dir():
        return []
    names = [_NAME.fullmatch(path.name) for path in layout.jobs_dir.iterdir()]
    found = [
        read_job_start(layout, match["job"], int(match["restart"])) for match in names if match
    ]
    starts = [start for start in found if start is not None]
    return sorted(starts, key=lambda start: (start.began, start.restart))


def note_submitted(layout: SessionLayout, job_ids: Sequence[str]) -> None:
    """Keeps the numbers of jobs that were submitted for a session, which may not have begun."""
    layout.jobs_dir.mkdir(parents=True, exist_ok=True)
    write_json(layout.submitted_file, {"jobs": [*list_submitted(layout), *job_ids]})


def list_submitted(layout: SessionLayout) -> list[str]:
    """The numbers of all jobs that were submitted for the session, in that order."""
    try:
        return read_stored(layout.submitted_file, _Submitted, remedy=_REMEDY).jobs
    except FileNotFoundError:
        return []
