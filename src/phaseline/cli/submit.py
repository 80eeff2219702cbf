"""`phaseline submit`: runs a session on SLURM."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from phaseline.checkpoint.foreign_checks import weights_can_be_read
from phaseline.cli.options import ConfigFile, Overrides, SessionDir
from phaseline.cli.showing import show
from phaseline.cluster.array import member_of_array
from phaseline.cluster.submission import Submission, plan_submission, submit_jobs
from phaseline.config.loading import LoadedConfig, load_config
from phaseline.errors import UsageError
from phaseline.session.confinement import require_confined
from phaseline.session.jobs import note_submitted
from phaseline.session.layout import SessionLayout
from phaseline.session.lease import read_lease


def submit(
    config: ConfigFile,
    override: Overrides = None,
    session: SessionDir = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the script, and submit nothing.")
    ] = False,
    nodes: Annotated[int | None, typer.Option(min=1, help="Machines.")] = None,
    gpus_per_node: Annotated[int | None, typer.Option(min=0, help="GPUs of each node.")] = None,
    partition: Annotated[str | None, typer.Option(help="Partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Account.")] = None,
    qos: Annotated[str | None, typer.Option(help="Quality of service.")] = None,
    time: Annotated[str | None, typer.Option(help="Longest time of one job, 12:00:00.")] = None,
    constraint: Annotated[str | None, typer.Option(help="Features of every node.")] = None,
    chain: Annotated[
        int | None, typer.Option(min=2, help="Jobs, each behind the other; none is requeued.")
    ] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTION", help="One more of sbatch's, as --mail-type=END. Repeatable."
        ),
    ] = None,
) -> None:
    """Submit a session as a SLURM job, which goes on by itself until the session is finished.

    The file is validated first, so no job waits in the queue for a fault. What is asked for
    stands in the file's `cluster` section; the options here change it for this submission.
    The same command again resumes the session.

    Exit codes: 0 submitted; 1 SLURM refuses; 2 the file is faulty, or the session is in use.
    """
    overrides = list(override or ())
    flags: dict[str, Any] = {
        "nodes": nodes,
        "gpus_per_node": gpus_per_node,
        "partition": partition,
        "account": account,
        "qos": qos,
        "time": time,
        "constraint": constraint,
        "chain": chain,
        "requeue": None if chain is None else False,
        "sbatch": [*sbatch] if sbatch else None,
    }
    # As JSON, which is YAML: a text stays one, whatever it looks like (12345, [a100|h100]).
    overrides += [
        f"cluster.{key}={json.dumps(value)}" for key, value in flags.items() if value is not None
    ]
    loaded = load_config(config, overrides, session_dir=session, rules=weights_can_be_read(session))
    sessions = _check_members(loaded, overrides)
    jobs = plan_submission(loaded, overrides=overrides, session_dir=session)
    if dry_run:
        typer.echo(_join(jobs), nl=False)
        return
    for folder in sessions:
        _require_free(SessionLayout(folder))
    numbers = submit_jobs(jobs, loaded.config.cluster)
    for folder in sessions:
        note_submitted(SessionLayout(folder), numbers)
    show(f"Submitted as job {', then '.join(numbers)}.")
    for folder in sessions:
        show(f"  session  {folder}")
    show(f"  script   {jobs[0].file}")
    show(f"  status   phaseline status {shlex.quote(str(sessions[0]))}")


def _check_members(loaded: LoadedConfig, overrides: list[str]) -> list[Path]:
    """Validates every session of an array as its job will; returns the sessions' directories.

    Raises:
        ConfigurationError: A member's overrides do not fit.
    """
    if not loaded.config.cluster.array:
        return [loaded.session_dir]
    members = [member_of_array(loaded, idx) for idx in range(len(loaded.config.cluster.array))]
    for member in members:
        load_config(loaded.source, [*overrides, *member.overrides], session_dir=member.session_dir)
    return [member.session_dir for member in members]


def _require_free(layout: SessionLayout) -> None:
    """Says now what the job would say after its time in the queue.

    Raises:
        UsageError: The session is in use.
    """
    require_confined(layout)
    lease = read_lease(layout)
    if lease is not None and lease.is_held():
        raise UsageError(
            f"The session at {layout.root} is in use by {lease.owner}. Wait for its end, or stop it "
            f"first: phaseline stop {shlex.quote(str(layout.root))} --wait"
        )


def _join(jobs: list[Submission]) -> str:
    if len(jobs) == 1:
        return jobs[0].text
    return "\n".join(
        f"# -- job {idx} of {len(jobs)}\n{job.text}" for idx, job in enumerate(jobs, 1)
    )
