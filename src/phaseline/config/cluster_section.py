"""The section that says what a session runs on. No hyper-parameters."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Literal

from pydantic import Field, field_validator

from phaseline.config.bounds import Copies, Cpus, Gpus, Nodes, Processes
from phaseline.config.section import Section
from phaseline.config.tree import found_text

_TIME = re.compile(
    r"(?:(?P<days>[0-9]{1,4})-)?(?P<hours>[0-9]{1,3}):(?P<minutes>[0-5]\d)(?::(?P<seconds>[0-5]\d))?"
)
_TIME_FORM = "hours as '12:00:00', or days before them as '2-00:00:00'"
_OPTION = re.compile(r"--[a-z][a-z0-9-]*(=.+)?")
OWN_OPTIONS = {
    "account": "account",
    "array": "array",
    "constraint": "constraint",
    "cpus-per-task": "cpus_per_node",
    "gpus-per-node": "gpus_per_node",
    "gres": "gpus_per_node",
    "job-name": "",
    "mem": "memory",
    "no-requeue": "requeue",
    "nodes": "nodes",
    "ntasks-per-node": "",
    "open-mode": "",
    "output": "",
    "partition": "partition",
    "qos": "qos",
    "requeue": "requeue",
    "signal": "signal_lead_s",
    "time": "time",
}
"""sbatch's options that the script sets, and the setting that each comes from, if any."""

_Word = Annotated[str, Field(min_length=1)]


class ContainerSection(Section):
    """The image that ranks run in."""

    image: str = Field(
        min_length=1,
        examples=["images/train.sif"],
        description="A file, or what the runtime takes.",
    )
    runtime: Literal["apptainer", "pyxis"] = Field(
        "apptainer",
        description="apptainer: `apptainer exec`; pyxis: srun's --container-image, for enroot.",
    )
    mounts: tuple[str, ...] = Field(
        (),
        examples=["['/data:/data']"],
        description="Folders that it sees besides the one you submit from, as outside:inside.",
    )
    python: str = Field("python", min_length=1, description="Python inside, which has Phaseline.")


class ClusterSection(Section):
    """What a session runs on, and how its SLURM jobs are asked for. No hyper-parameters."""

    nodes: Nodes = Field(1, description="Machines.")
    processes_per_node: Processes | None = Field(
        None,
        examples=["2"],
        description="Ranks per node; null: one per GPU, or 1 without a GPU.",
    )
    gpus_per_node: Gpus | None = Field(
        None,
        examples=["8"],
        description="GPUs that a job asks for on each node, 0 for none; null: one per rank.",
    )
    cpus_per_node: Cpus | None = Field(
        None, examples=["64"], description="CPUs that a job asks for on each node; null: SLURM's."
    )
    memory: _Word | None = Field(
        None, examples=["256G"], description="Memory per node, as sbatch --mem; null: SLURM's."
    )
    time: str | None = Field(
        None,
        examples=["'12:00:00'"],
        json_schema_extra={"allowed": f"{_TIME_FORM}, or null"},
        description="Longest time of one job, hours:minutes:seconds; null: the partition's. A "
        "session that needs longer goes on in the next.",
    )
    partition: _Word | None = Field(None, examples=["gpu"], description="Partition; null: SLURM's.")
    account: _Word | None = Field(None, examples=["lab"], description="Account that is charged.")
    qos: _Word | None = Field(None, examples=["normal"], description="Quality of service.")
    constraint: _Word | None = Field(
        None, examples=["a100"], description="Features that every node must have."
    )
    signal_lead_s: Annotated[int, Field(ge=10, le=65000)] = Field(
        120,
        description="SLURM warns a job so many seconds before its time is up (up to a minute "
        "earlier). Training stops by itself in time before; this is for what cannot: a start, a "
        "preparation, a long validation.",
    )
    requeue: bool = Field(
        True, description="A job that is not finished asks SLURM to run it again, as the same job."
    )
    chain: Copies = Field(
        1,
        examples=["4"],
        description="Jobs that are submitted at once, each waiting for the one before: for sites "
        "that allow no requeue. Those that are not needed end in seconds.",
    )
    array: tuple[str, ...] = Field(
        (),
        examples=["[session.seed=1, session.seed=2]"],
        description="One session per member, side by side: a job array. Each member holds the "
        "overrides of its session, divided by spaces.",
    )
    modules: tuple[str, ...] = Field(
        (), examples=["[cuda/12.4]"], description="Modules to load before anything else."
    )
    environment: tuple[str, ...] = Field(
        (),
        examples=["['export NCCL_DEBUG=WARN']"],
        description="Lines of shell that run on the first node before anything else; what they "
        "export reaches every rank.",
    )
    container: ContainerSection | None = Field(
        None,
        examples=["{image: images/train.sif}"],
        description="Run the ranks in a container; null: as the job itself.",
    )
    sbatch: tuple[str, ...] = Field(
        (),
        examples=["['--mail-type=END']"],
        description="Further options of sbatch, each as one would write it behind #SBATCH.",
    )

    @property
    def time_s(self) -> int | None:
        """Longest time of one job in seconds, if it is given."""
        match = _TIME.fullmatch(self.time) if self.time is not None else None
        if match is None:
            return None
        numbers = {name: int(text or 0) for name, text in match.groupdict().items()}
        hours = 24 * numbers["days"] + numbers["hours"]
        return 3600 * hours + 60 * numbers["minutes"] + numbers["seconds"]

    @field_validator("time")
    @classmethod
    def _time_is_a_time(cls, value: str | None) -> str | None:
        if value is not None and _TIME.fullmatch(value) is None:
            raise ValueError(f"is {found_text(value)}; it must be {_TIME_FORM}")
        return value

    @field_validator("memory", "partition", "account", "qos", "constraint")
    @classmethod
    def _words_are_words(cls, value: str | None) -> str | None:
        # What stands behind #SBATCH ends at a space, without a word from sbatch.
        if value is not None and re.search(r"\s", value):
            raise ValueError(f"is {found_text(value)}; it must hold no space")
        return value

    @field_validator("modules", "environment", "sbatch", "array")
    @classmethod
    def _lines_are_lines(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for line in value:
            if not line.strip() or "\n" in line:
                raise ValueError(f"holds {found_text(line)}; each must be one line of text")
        return value

    @field_validator("array")
    @classmethod
    def _members_are_words(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for member in value:
            try:
                shlex.split(member)
            except ValueError as error:
                raise ValueError(
                    f"holds {found_text(member)}, which cannot be divided into words: {error}; "
                    "each must be overrides divided by spaces"
                ) from None
        return value

    @field_validator("sbatch")
    @classmethod
    def _options_are_options(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for option in value:
            if _OPTION.fullmatch(option) is None:
                raise ValueError(f"holds {found_text(option)}; each must be as '--mail-type=END'")
        return value
