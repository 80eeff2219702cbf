"""What SLURM knows of a job, asked through its own commands. Nothing here needs SLURM to exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_TIMEOUT_S = 20.0
"""A controller that is busy answers late; one that is gone answers never."""
_OUTAGE = re.compile("unable to contact|timed out|connection|zero bytes|temporar", re.IGNORECASE)
"""What its commands say while no controller answers; all else is a no."""
_OVER = frozenset(
    {
        *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "PREEMPTED"),
        *("NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY", "REVOKED"),
    }
)

_PLACE_VARIABLES = frozenset(
    {
        *("SLURM_CONF", "SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_JOBID"),
        *("SLURM_JOB_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NUM_NODES", "SLURM_NNODES"),
    }
)
"""Where a step runs, and nothing of how."""


@dataclass(frozen=True)
class JobPlace:
    """The job that this process belongs to, by its environment.

    Attributes:
        job_id: SLURM's number; each member of an array has its own.
        restart: How often SLURM has started it before.
        nodes: Its nodes, as SLURM writes them.
        num_nodes: How many those are.
        array_idx: Which member of an array it is; None: it is none.
        array_job_id: The array's number, which is one member's own as well; None: there is none.
    """

    job_id: str
    restart: int
    nodes: str
    num_nodes: int
    array_idx: int | None
    array_job_id: str | None = None

    @property
    def name(self) -> str:
        """What SLURM calls this job alone: one member's number stands for the whole array."""
        if self.array_job_id is None:
            return self.job_id
        return f"{self.array_job_id}_{self.array_idx}"

    @classmethod
    def read(cls, variables: Mapping[str, str] = os.environ) -> JobPlace | None:
        """Returns the job's place; None outside of SLURM."""
        job_id = variables.get("SLURM_JOB_ID")
        if job_id is None:
            return None
        index = variables.get("SLURM_ARRAY_TASK_ID")
        return cls(
            job_id=job_id,
            # Unset at the first start.
            restart=int(variables.get("SLURM_RESTART_COUNT", "0")),
            nodes=variables.get("SLURM_JOB_NODELIST", ""),
            num_nodes=int(variables.get("SLURM_JOB_NUM_NODES", "1")),
            array_idx=None if index is None else int(index),
            array_job_id=None if index is None else variables.get("SLURM_ARRAY_JOB_ID"),
        )


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What SLURM says of a job now.

    Attributes:
        state: As PENDING, RUNNING, COMPLETING.
        reason: Why it waits, or why it ended.
        restarts: How often it was started again, a requeue that is under way included.
        started: Unix time; None: it has not.
        ends: Unix time at which SLURM ends it; None: never. A preemption moves it.
        limit_s: Seconds that it may run; None: any.
        is_preempted: Whether it has to make place for another job.
        nodes: Its nodes, as SLURM writes them.
    """

    state: str
    reason: str
    restarts: int
    started: float | None
    ends: float | None
    limit_s: float | None
    is_preempted: bool
    nodes: str

    @property
    def is_over(self) -> bool:
        """Whether it runs no more and is not to run again."""
        return self.state in _OVER

    @property
    def is_held(self) -> bool:
        """Whether it waits until somebody releases it."""
        return self.state == "PENDING" and "held" in self.reason.lower()

    @property
    def is_out_of_time(self) -> bool:
        """Whether its own limit has ended it."""
        if None in (self.started, self.ends, self.limit_s):
            return False
        assert self.started is not None
        assert self.ends is not None
        assert self.limit_s is not None
        return self.ends <= time.time() and self.ends - self.started >= self.limit_s - 1


def ask(job: str, *, timeout_s: float = _TIMEOUT_S) -> JobState | None:
    """Returns what SLURM knows of a job; None if it does not say, or knows it no more.

    Args:
        job: Its number, or the name of an array's member.
        timeout_s: Longest wait.
    """
    # Unix time, whatever the zones of the machines are.
    answer = run_client(
        ["scontrol", "show", "job", "--oneliner", job],
        variables={"SLURM_TIME_FORMAT": "%s"},
        timeout_s=timeout_s,
    )
    if answer is None or answer.returncode != 0:
        return None
    # Of an array's number SLURM shows all members, and this one need not come first.
    lines = answer.stdout.splitlines()
    own = [line for line in lines if line.startswith(f"JobId={job} ")]
    return parse_job((own or lines or [""])[0])


def parse_job(line: str) -> JobState | None:
    """Reads a line of `scontrol show job --oneliner` with times in seconds."""
    words = (word.partition("=") for word in line.split())
    # Later fields, as the command, may hold anything: the first of a name is SLURM's.
    fields: dict[str, str] = {}
    for name, separator, value in words:
        if separator:
            fields.setdefault(name, value)
    if "JobState" not in fields:
        return None
    return JobState(
        state=fields["JobState"],
        reason=fields.get("Reason", "None"),
        restarts=int(fields.get("Restarts", "0")),
        started=_moment(fields.get("StartTime")),
        ends=_moment(fields.get("EndTime")),
        limit_s=parse_limit(fields.get("TimeLimit", "")),
        is_preempted=_moment(fields.get("PreemptTime")) is not None,
        nodes=fields.get("NodeList", ""),
    )


def parse_limit(text: str) -> float | None:
    """Seconds of a time as SLURM writes it, [days-]hours:minutes:seconds; None: no limit."""
    days, dash, clock = text.rpartition("-")
    numbers = clock.split(":")
    if len(numbers) != 3 or not all(number.isdigit() for number in numbers):
        return None
    hours, minutes, seconds = map(int, numbers)
    return float(86400 * int(days if dash else 0) + 3600 * hours + 60 * minutes + seconds)


class Refusal(NamedTuple):
    """Why SLURM did not do what it was asked.

    Attributes:
        problem: In its own words.
        may_pass: Whether it did not answer, rather than said no.
    """

    problem: str
    may_pass: bool


def requeue(job: str) -> Refusal | None:
    """Asks SLURM once to run a job again; returns why it will not, None if it will.

    Args:
        job: Its number, or the name of an array's member.
    """
    if shutil.which("scontrol") is None:
        return Refusal("scontrol cannot be run on this node", may_pass=False)
    answer = run_client(["scontrol", "requeue", job])
    if answer is None:
        return Refusal(f"SLURM did not answer within {_TIMEOUT_S:.0f} s", may_pass=True)
    if answer.returncode == 0:
        return None
    problem = answer.stderr.strip() or "scontrol does not say why"
    return Refusal(problem, may_pass=_OUTAGE.search(problem) is not None)


def host_names(nodes: str) -> list[str]:
    """Every one of some nodes, in SLURM's order; empty if SLURM does not say."""
    answer = run_client(["scontrol", "show", "hostnames", nodes])
    return [] if answer is None or answer.returncode != 0 else answer.stdout.split()


def down_nodes(nodes: str) -> list[str]:
    """Those of some nodes that do not answer SLURM now."""
    answer = run_client(["sinfo", "--noheader", "--Node", "--nodes", nodes, "--format", "%N %T"])
    if answer is None or answer.returncode != 0:
        return []
    pairs = [line.split() for line in answer.stdout.splitlines()]
    return sorted({pair[0] for pair in pairs if len(pair) == 2 and "down" in pair[1]})


def skip_step_number() -> str:
    """Runs a step that does nothing, so that the next one has a higher number.

    It shares what the job has with whatever else runs, and asks for none of it.

    Returns:
        Why it did not run; empty if it did.
    """
    # What the job's options set for steps may not fit a step of one task.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SLURM_") or name in _PLACE_VARIABLES
    }
    command = ["srun", "--overlap", "--gres=none", "--nodes=1", "--ntasks=1", "true"]
    answer = run_client(command, environment=environment)
    if answer is None:
        return f"srun did not end within {_TIMEOUT_S:.0f} s"
    return "" if answer.returncode == 0 else answer.stderr.strip() or "srun does not say why"


def run_client(
    command: Sequence[str],
    *,
    variables: Mapping[str, str] | None = None,
    environment: Mapping[str, str] = os.environ,
    timeout_s: float = _TIMEOUT_S,
) -> subprocess.CompletedProcess[str] | None:
    """Runs one of SLURM's commands; None if it cannot be run, or does not answer.

    Args:
        command: The command.
        variables: Set on top of the environment.
        environment: What the command inherits.
        timeout_s: Longest wait.
    """
    try:
        return subprocess.run(
            command,
            env={**environment, **(variables or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _moment(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdigit() else None
