"""`phaseline submit`: runs a session on SLURM."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from phaseline.checkpoint.foreign_checks import weights_can_be_read
from phaseline.cli.finished import is_finished
from phaseline.cli.options import AcceptChanges, ConfigFile, Overrides, SessionDir
from phaseline.cli.showing import show
from phaseline.cluster.array import load_members
from phaseline.cluster.submission import Submission, plan_submission, submit_jobs
from phaseline.cluster.verdict import describe_finished
from phaseline.config.loading import LoadedConfig
from phaseline.errors import UsageError
from phaseline.session.confinement import require_confined
from phaseline.session.copies import require_no_copy
from phaseline.session.jobs import note_submitted
from phaseline.session.layout import SessionLayout
from phaseline.session.lease import read_lease
from phaseline.session.session_file import load_session_file
from phaseline.training.pipeline.accepted_change import AcceptedChange
from phaseline.training.pipeline.changed_settings import require_acceptable
from phaseline.training.pipeline.lost_records import require_records


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
    accept_change: AcceptChanges = None,
) -> None:
    """Submit a session as a SLURM job, which goes on by itself until the session is finished.

    The file is validated first, and held against the session that is to go on, so no job waits
    in the queue for what it would be refused for. What is asked for stands in the file's
    `cluster` section; the options here change it for this submission. The same command again
    resumes the session.

    Exit codes: 0 submitted, or finished already; 1 SLURM refuses; 2 the file is faulty, its
    changes are not accepted, or the session is in use.
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
    loaded = load_session_file(
        config, overrides, session_dir=session, rules=weights_can_be_read(session)
    )
    members = load_members(loaded, overrides)
    sessions = [member.session_dir for member in members]
    accepted = _accept(members, accept_change or ())
    jobs = plan_submission(
        loaded, overrides=overrides, session_dir=session, accept_changes=accepted
    )
    if dry_run:
        typer.echo(_join(jobs), nl=False)
        return
    if not _have_work(members):
        return
    numbers = submit_jobs(jobs, loaded.config.cluster)
    for folder in sessions:
        note_submitted(SessionLayout(folder), numbers)
    _show_submitted(numbers, sessions, jobs[0].file)


def _have_work(members: list[LoadedConfig]) -> bool:
    """Whether a session has anything left to do; says so if none has.

    Raises:
        UsageError: A session is in use.
    """
    layouts = [SessionLayout(member.session_dir) for member in members]
    for layout in layouts:
        _require_free(layout)
    if not all(map(is_finished, members)):
        return True
    for layout in layouts:
        show(describe_finished(layout))
    return False


def _show_submitted(numbers: Sequence[str], sessions: Sequence[Path], script: Path) -> None:
    show(f"Submitted as job {', then '.join(numbers)}.")
    for folder in sessions:
        show(f"  session  {folder}")
    show(f"  script   {script}")
    show(f"  status   phaseline status {shlex.quote(str(sessions[0]))}")


def _accept(members: list[LoadedConfig], keys: Sequence[str]) -> list[str]:
    """Says now what ranks would say after their time in the queue.

    Returns:
        What the job accepts: each change with its new value. So a start that finds it taken
        over already has nothing to refuse, and one that finds the file changed again refuses.

    Raises:
        SessionChangedError: A session cannot go on with what is asked for.
        UsageError: Something is accepted that no session refuses.
        SessionError: A session's records are gone.
    """
    found: dict[str, None] = {}
    for member in members:
        layout = SessionLayout(member.session_dir)
        # What user code and models are like, only their container may know.
        in_depth = member.config.cluster.container is None
        changes = require_acceptable(
            layout, member, keys, in_depth=in_depth, may_be_idle=len(members) > 1
        )
        require_records(layout)
        found |= {AcceptedChange.of(change).text: None for change in changes.accepted}
    if keys and len(members) > 1 and not found:
        raise UsageError(
            f"--accept-change names {keys[0]}, where no member of the array is refused a change. "
            "Leave it out."
        )
    return [*found]


def _require_free(layout: SessionLayout) -> None:
    """Says now what the job would say after its time in the queue.

    Raises:
        UsageError: The session is in use.
    """
    require_confined(layout)
    require_no_copy(layout)
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
