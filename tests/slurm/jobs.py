"""Submitting sessions as a user does, and looking at what SLURM and the session say of them."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from integration.launched import COMMAND, require_same_phase, view
from phaseline.cluster.slurm import parse_job
from phaseline.session.attempts import ErrorRecord, Outcome, read_error, read_outcome
from phaseline.session.jobs import JobStart, list_job_starts
from phaseline.session.layout import SessionLayout
from phaseline.session.records import read_records
from slurm.cluster import Cluster, ClusterError

HERE = Path(__file__).parent
ONE_PHASE = HERE / "session.yaml"
TWO_PHASES = HERE / "two_phases.yaml"
STEP_S = 0.25
LIMIT_S = 240.0
_LAUNCHER = "phaseline.cluster.agent"
_PROGRAM = "phaseline.cluster.batch"
_OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"}


class Job:
    """A submitted job and its session."""

    def __init__(self, cluster: Cluster, number: str, session: Path) -> None:
        self.cluster = cluster
        self.number = number
        self.layout = SessionLayout(session)

    # -- Doing

    def signal_batch(self, name: str) -> None:
        """Sends the batch script a signal, as SLURM does before the time is up."""
        self.cluster.client("scancel", f"--signal={name}", "--batch", self.number)

    def cancel(self) -> None:
        self.cluster.client("scancel", self.number)

    def requeue_on(self, nodes: str) -> None:
        """Has SLURM end this start, and make the next one on nodes that it had before."""
        self.cluster.client("scontrol", "requeue", self.number)
        self.wait_until(lambda: self.state == "PENDING", "the requeue")
        self.cluster.client("scontrol", "update", f"jobid={self.number}", f"reqnodelist={nodes}")

    # -- Waiting

    def wait_until(self, is_so: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
        """Returns once something is so; shows the job's output if it takes too long."""
        deadline = time.monotonic() + limit_s
        while not is_so():
            assert time.monotonic() < deadline, f"waited too long for {what}\n{self.report()}"
            time.sleep(0.1)

    def wait_for_step(self, step: int) -> None:
        """Returns when so many steps of the first attempt are done."""
        self.wait_until(lambda: self.step_of(1) >= step, f"step {step}")

    def wait_end(self, limit_s: float = LIMIT_S) -> int:
        """Returns the job's exit code once it is over for good."""
        self.wait_until(lambda: self.state in _OVER, f"the end of job {self.number}", limit_s)
        code = re.search(r"ExitCode=(\d+):", self._shown())
        assert code is not None
        return int(code[1])

    # -- Looking

    @property
    def state(self) -> str:
        """As SLURM calls it."""
        # While a job is completing it may still become one that is requeued.
        shown = parse_job(self._shown())
        return "" if shown is None else shown.state

    @property
    def nodes(self) -> list[str]:
        """The nodes that it runs on."""
        found = re.search(r" NodeList=(\S+)", self._shown())
        assert found is not None
        return self.cluster.client("scontrol", "show", "hostnames", found[1]).split()

    @property
    def output(self) -> str:
        """What the job printed, over all of its starts."""
        logs = sorted(self.layout.root.glob(f"job-{self.number}.log"))
        return "\n".join(log.read_text(errors="replace") for log in logs)

    def starts(self) -> list[JobStart]:
        """What the session's records say of the job's starts."""
        return [one for one in list_job_starts(self.layout) if one.job_id == self.number]

    def step_of(self, attempt: int) -> int:
        """Steps that an attempt has recorded."""
        records = read_records(self.layout.attempt(attempt).metrics_file)
        return max((record["phase_step"] for record in records), default=0)

    def outcome(self, attempt: int) -> Outcome | None:
        return read_outcome(self.layout.attempt(attempt))

    def error(self, attempt: int) -> ErrorRecord | None:
        return read_error(self.layout.attempt(attempt))

    def ranks_on(self, node: str) -> list[psutil.Process]:
        """The session's ranks on a node."""
        return [one for one, words in self._processes(node) if _LAUNCHER not in words]

    def launcher_on(self, node: str) -> psutil.Process:
        """What starts the ranks on a node, and hosts torch's agent."""
        [launcher] = [one for one, words in self._processes(node) if _LAUNCHER in words]
        return launcher

    def programs_on(self, node: str) -> list[psutil.Process]:
        """What watches over a job on a node; it is no rank."""
        return [one for one, words in self._commands(node) if _PROGRAM in words]

    def remains_on(self, node: str) -> list[psutil.Process]:
        """What SLURM runs a job's steps in, and its batch script."""
        title = f"slurmstepd: [{self.number}."
        return [one for one, words in self._commands(node) if words and words[0].startswith(title)]

    def _processes(self, node: str) -> Iterator[tuple[psutil.Process, list[str]]]:
        for process, words in self._commands(node):
            if "run" in words and str(self.layout.root) in words:
                yield process, words

    def _commands(self, node: str) -> Iterator[tuple[psutil.Process, list[str]]]:
        for process in self.cluster.processes_of(node):
            with suppress(psutil.Error):
                yield process, process.cmdline()

    def report(self) -> str:
        """Everything that helps to see why a test failed."""
        logs = self.layout.attempts_dir.glob("*/rank-*.log")
        texts = [f"{log}:\n{log.read_text(errors='replace')[-3000:]}" for log in sorted(logs)]
        shown = self._shown()
        sinfo = self.cluster.client("sinfo", "-N", "-l")
        return "\n".join([shown, self.output, *texts, sinfo, self.cluster.tail()])

    def _shown(self) -> str:
        try:
            return self.cluster.client("scontrol", "show", "job", "-o", self.number)
        except ClusterError as error:
            return str(error)


@dataclass(frozen=True)
class Submitter:
    """Submits sessions to one cluster.

    Attributes:
        cluster: The cluster.
        cache: Prepared data, shared by all sessions.
    """

    cluster: Cluster
    cache: Path

    def environment(self, variables: dict[str, str] | None = None) -> dict[str, str]:
        return {
            **os.environ,
            **self.cluster.environment,
            "PYTHONPATH": str(HERE),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PHASELINE_CACHE": str(self.cache),
            **(variables or {}),
        }

    def run(
        self, *arguments: str, variables: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs one of Phaseline's commands as on a login node."""
        return subprocess.run(
            [*COMMAND, *arguments],
            env=self.environment(variables),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def submit(
        self,
        session: Path,
        *arguments: str,
        config: Path = ONE_PHASE,
        step_s: float = STEP_S,
        **moments: str,
    ) -> list[Job]:
        """Submits a session; returns its jobs. `moments_of_jobs.py` says what moments there are."""
        variables = {name.upper(): text for name, text in moments.items()}
        variables["STEP_S"] = str(step_s)
        done = self.run(
            "submit", str(config), "--session", str(session), *arguments, variables=variables
        )
        assert done.returncode == 0, done.stderr
        found = re.search(r"Submitted as job (.+)\.", done.stdout)
        assert found is not None, done.stdout
        return [Job(self.cluster, number, session) for number in found[1].split(", then ")]


def require_equal(smooth: Path, job: Job, *phases: str) -> None:
    """The session ended as one that nobody touched: weights, state and every recorded number."""
    for phase in phases:
        require_same_phase(smooth, job.layout.root, phase)
    assert view(job.layout.root) == view(smooth)
