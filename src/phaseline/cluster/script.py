"""Rendering the batch script of a session: the submitted one, and the one in `slurm/`.

python -m phaseline.cluster.script > slurm/session.sbatch
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from phaseline.config.cluster_section import ClusterSection
from phaseline.config.loading import LoadedConfig

_FOR_THOSE_WHO_EDIT = """\
Runs a session on SLURM: resources, environment, and one program. What training does stands
in the session file; `phaseline submit` writes such a script from its `cluster` section.
  sbatch --job-name my-run slurm/session.sbatch configs/my.yaml [-o KEY=VALUE ...]
The same line again resumes the session. A job that is preempted, reaches its time limit or
loses a node goes on by itself."""
_FOR_READERS = "Written by `phaseline submit`; submit again instead of editing it."


@dataclass(frozen=True, kw_only=True)
class BatchScript:
    """Everything that a script says.

    Attributes:
        name: The job's name.
        nodes: Machines.
        options: What else is asked for, each as one would write it behind `#SBATCH --`.
        signal_lead_s: Seconds before the end of its time at which the job is warned.
        requeue: Whether SLURM may run the job again.
        output: File that the job prints to, appended over all of its starts.
        modules: To load first.
        environment: Lines of shell.
        command: What is run.
    """

    name: str
    nodes: int
    options: tuple[str, ...]
    signal_lead_s: int
    requeue: bool
    output: str
    modules: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    command: str

    def render(self, comments: str = _FOR_READERS) -> str:
        """The script's text."""
        environment = Environment(
            loader=PackageLoader("phaseline.cluster"),
            undefined=StrictUndefined,
            trim_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,  # noqa: S701 - it is a shell script, and the words are quoted
        )
        template = environment.get_template("session.sbatch.j2")
        return template.render(job=self, comments=comments.splitlines())


def build_script(
    loaded: LoadedConfig,
    *,
    overrides: Sequence[str] = (),
    session_dir: Path | None = None,
    accept_changes: Sequence[str] = (),
    line: str = "",
    is_chained: bool = False,
    python: str = sys.executable,
) -> BatchScript:
    """Builds the script of a session's job.

    Args:
        loaded: The valid configuration, overrides applied.
        overrides: The same overrides, for the ranks.
        session_dir: The session's directory; None leaves it to the configuration.
        accept_changes: Handed on to the ranks as `--accept-change`.
        line: Names the jobs that go on from each other; empty: the job alone.
        is_chained: Whether another job waits behind this one.
        python: Runs the job's own program; the ranks too, unless they have a container.
    """
    cluster = loaded.config.cluster
    words = [python, "-m", "phaseline.cluster.batch", str(loaded.source)]
    if session_dir is not None:
        words += ["--session", str(session_dir)]
    for override in overrides:
        words += ["-o", override]
    for key in accept_changes:
        words += ["--accept-change", key]
    if line:
        words += ["--line", line]
    if is_chained:
        words.append("--chained")
    number = "%A-%a" if cluster.array else "%j"
    return BatchScript(
        name=loaded.config.session.name,
        nodes=cluster.nodes,
        options=tuple(_options(cluster)),
        signal_lead_s=cluster.signal_lead_s,
        requeue=cluster.requeue,
        output=_option_text(f"{str(logs_dir(loaded)).replace('%', '%%')}/job-{number}.log"),
        modules=tuple(shlex.quote(module) for module in cluster.modules),
        environment=cluster.environment,
        command=shlex.join(words),
    )


def logs_dir(loaded: LoadedConfig) -> Path:
    """Where jobs print to; the members of an array share a folder beside their sessions."""
    return loaded.session_dir


def _options(cluster: ClusterSection) -> Iterator[str]:
    num_gpus = cluster.gpus_per_node
    if num_gpus is None:
        num_gpus = cluster.processes_per_node or 0
    pairs = (
        ("gpus-per-node", num_gpus or None),
        ("cpus-per-task", cluster.cpus_per_node),
        ("mem", cluster.memory),
        ("time", cluster.time),
        ("partition", cluster.partition),
        ("account", cluster.account),
        ("qos", cluster.qos),
        ("constraint", cluster.constraint),
        ("array", f"0-{len(cluster.array) - 1}" if cluster.array else None),
    )
    for name, value in pairs:
        if value is not None:
            yield f"{name}={_option_text(str(value))}"
    for option in cluster.sbatch:
        name, separator, text = option.removeprefix("--").partition("=")
        yield f"{name}{separator}{_option_text(text)}"


def _option_text(text: str) -> str:
    """As sbatch reads it from a line: without quotes a value would end at a space or a `#`."""
    is_quoted = text[:1] in ("'", '"')
    is_plain = not any(mark in text for mark in " \t#'")
    return text if is_plain or is_quoted else f'"{text}"'


def static_script() -> str:
    """The text of `slurm/session.sbatch`, for those who edit batch files themselves."""
    script = BatchScript(
        name="session",
        nodes=2,
        options=("gpus-per-node=8", "cpus-per-task=64", "time=12:00:00"),
        signal_lead_s=ClusterSection.model_fields["signal_lead_s"].default,
        requeue=True,
        output="%x-%j.log",
        environment=('source "${VENV:-.venv}/bin/activate"',),
        command='python -m phaseline.cluster.batch "$@"',
    )
    return script.render(_FOR_THOSE_WHO_EDIT)


if __name__ == "__main__":
    sys.stdout.write(static_script())
