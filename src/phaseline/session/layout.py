"""Where everything in a session directory lies. Paths only: nothing is read or made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_NUMBER = re.compile(r"\d{4,9}", re.ASCII)
"""Names of attempts; other digits than these, or a thousand of them, were not written here."""


@dataclass(frozen=True)
class AttemptLayout:
    """What one attempt writes, and nobody else.

    Attributes:
        number: From 1, in the order of starts.
        dir: The attempt's folder.
    """

    number: int
    dir: Path

    @property
    def outcome_file(self) -> Path:
        """How it ended on purpose."""
        return self.dir / "outcome.json"

    @property
    def error_file(self) -> Path:
        """The first rank that failed by itself."""
        return self.dir / "error.json"

    @property
    def consequence_file(self) -> Path:
        """The first rank that failed because another was gone."""
        return self.dir / "consequence.json"

    @property
    def stop_file(self) -> Path:
        """Somebody's request that it stops; see `stop_request.py`."""
        return self.dir / "stop.json"

    @property
    def adopted_file(self) -> Path:
        """What it stood on when it began."""
        return self.dir / "adopted.json"

    @property
    def environment_file(self) -> Path:
        """Versions and machine."""
        return self.dir / "environment.json"

    @property
    def config_file(self) -> Path:
        """The resolved configuration that the attempt ran with."""
        return self.dir / "config.yaml"

    @property
    def metrics_file(self) -> Path:
        """Metric records."""
        return self.dir / "metrics.jsonl"

    @property
    def events_file(self) -> Path:
        """Event records."""
        return self.dir / "events.jsonl"

    @property
    def moved_file(self) -> Path:
        """Which paths of the configuration it found elsewhere."""
        return self.dir / "moved.json"

    @property
    def stacks_dir(self) -> Path:
        """Where ranks write the stacks of their threads."""
        return self.dir / "stacks"

    @property
    def profile_dir(self) -> Path:
        """Traces and snapshots of memory."""
        return self.dir / "profile"

    def rank_log(self, rank: int) -> Path:
        """What a rank and its libraries printed."""
        return self.dir / f"rank-{rank:05d}.log"

    def launcher_log(self, node_idx: int) -> Path:
        """What torch's agent on a node said of ranks that failed."""
        return self.dir / f"launcher-{node_idx:05d}.log"


@dataclass(frozen=True)
class PhaseLayout:
    """What is kept of one phase.

    Attributes:
        dir: The folder of the phase's run.
    """

    dir: Path

    @property
    def checkpoints_dir(self) -> Path:
        """Published checkpoints, and those being written."""
        return self.dir / "checkpoints"

    @property
    def samples_dir(self) -> Path:
        """Generated text."""
        return self.dir / "samples"

    @property
    def reference_dir(self) -> Path:
        """Log-probabilities of pairs before the phase's first step."""
        return self.dir / "reference"

    @property
    def final_dir(self) -> Path:
        """What the phase leaves."""
        return self.dir / "final"


@dataclass(frozen=True)
class SessionLayout:
    """One session.

    Attributes:
        root: The session directory, which is the session's identity.
    """

    root: Path

    @property
    def session_file(self) -> Path:
        """Who the session is."""
        return self.root / "session.json"

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.root / "config.yaml"

    @property
    def inputs_dir(self) -> Path:
        """What is kept of what the session was started with; see `inputs.py`."""
        return self.root / "inputs"

    @property
    def lease_dir(self) -> Path:
        """Who may write to the session; see `lease.py`."""
        return self.root / "lease"

    @property
    def launcher_file(self) -> Path:
        """Who starts its ranks now; see `starting.py`."""
        return self.root / "launcher.json"

    @property
    def attempts_dir(self) -> Path:
        """One folder per start."""
        return self.root / "attempts"

    @property
    def jobs_dir(self) -> Path:
        """One file per start of a SLURM job; see `jobs.py`."""
        return self.root / "jobs"

    @property
    def submitted_file(self) -> Path:
        """Which jobs were submitted."""
        return self.jobs_dir / "submitted.json"

    def job_file(self, job_id: str, restart: int) -> Path:
        """The record of one start of a SLURM job."""
        return self.jobs_dir / f"{job_id}-{restart}.json"

    def refusal_file(self, job_id: str, restart: int) -> Path:
        """What the ranks of that start leave if they refuse to begin."""
        return self.jobs_dir / f"{job_id}-{restart}.refusal"

    @property
    def phases_dir(self) -> Path:
        """One folder per phase."""
        return self.root / "phases"

    @property
    def exports_dir(self) -> Path:
        """Plain Hugging Face folders."""
        return self.root / "exports"

    @property
    def evaluations_dir(self) -> Path:
        """Results of benchmarks, one file each; see docs/evaluation.md."""
        return self.root / "evaluations"

    @property
    def report_file(self) -> Path:
        """The HTML report."""
        return self.root / "report.html"

    def attempt(self, number: int) -> AttemptLayout:
        """The layout of attempt `number`, whether it exists or not."""
        return AttemptLayout(number, self.attempts_dir / f"{number:04d}")

    def phase(self, name: str) -> PhaseLayout:
        """The layout of the phase's run, whether it exists or not."""
        return PhaseLayout(self.phases_dir / name / "run-1")

    def attempt_numbers(self) -> list[int]:
        """The numbers that are taken, ascending."""
        if not self.attempts_dir.is_dir():
            return []
        found = (path.name for path in self.attempts_dir.iterdir())
        names = {name for name in found if _NUMBER.fullmatch(name)}
        # A number in other digits, as 00001, was not written here, and its folder is not found.
        return sorted({n for n in map(int, names) if self.attempt(n).dir.name in names})
