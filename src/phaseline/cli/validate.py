"""`phaseline validate`: says everything that is wrong with a session file, without torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from phaseline.checkpoint.foreign_checks import weights_can_be_read
from phaseline.cli.options import AcceptChanges, ConfigFile, Overrides, SessionDir
from phaseline.cli.showing import show
from phaseline.cli.validation_json import describe_faults, describe_validation
from phaseline.cluster.array import load_members
from phaseline.config.batch_layout import BatchLayout
from phaseline.config.loading import LoadedConfig
from phaseline.config.sections import Config, PhaseSection
from phaseline.errors import ConfigurationError, ExitCode
from phaseline.session.confinement import require_confined
from phaseline.session.copies import require_no_copy
from phaseline.session.identity import load_identity
from phaseline.session.layout import SessionLayout
from phaseline.session.session_file import load_session_file
from phaseline.training.pipeline.changed_settings import (
    ChangedSettings,
    compare_with_session,
    require_none_refused,
)
from phaseline.training.pipeline.lost_records import require_records

_HEADINGS = ("phase", "objective", "duration", "batch", "rate", "engine", "ranks")


def validate(
    config: ConfigFile,
    override: Overrides = None,
    session: SessionDir = None,
    accept_change: AcceptChanges = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON document on standard output, and no text.")
    ] = False,
) -> None:
    """Check a session file: every fault at once, with its line and how to mend it.

    Where the session has begun, the file is held against what it was started with, as `launch`
    does: what will be refused, what may be accepted and with which --accept-change. Nothing is
    trained, prepared or written. What the file names of your own, as `module:attribute`, is
    looked up and not imported. Exit code 0: it can be run; 2: it cannot.
    """
    rules = weights_can_be_read(session, hashes=True)
    try:
        loaded = load_session_file(config, override or (), session_dir=session, rules=rules)
        load_members(loaded, override or ())
    except ConfigurationError as error:
        if not json:
            raise
        typer.echo(describe_faults(error.faults))
        raise typer.Exit(int(ExitCode.USAGE)) from error
    layout, accept = SessionLayout(loaded.session_dir), accept_change or ()
    require_confined(layout)
    require_no_copy(layout)
    changes = compare_with_session(layout, loaded, accept, in_depth=False)
    require_records(layout)
    rows = [_describe(loaded.config, phase) for phase in loaded.config.phases]
    command = _run_command(loaded, override or (), session, accept)
    if json:
        phases = [dict(zip(_HEADINGS, row, strict=True)) for row in rows]
        typer.echo(describe_validation(loaded, phases, changes, command))
        raise typer.Exit(int(ExitCode.USAGE if changes.refused else ExitCode.FINISHED))
    require_none_refused(changes, loaded, layout)
    show(f"{config} is valid: session {loaded.config.session.name} in {loaded.session_dir}/")
    if sys.stdout.isatty():
        _print_table(rows)
    else:
        _print_lines(rows)
    if load_identity(layout) is not None:
        _print_changes(changes)
    show(f"Run it with: {command}")


def _print_changes(changes: ChangedSettings) -> None:
    """How the file differs from what the session was started with."""
    notes = [*changes.notes()] or ["nothing changed since the last start"]
    for note in notes:
        show(f"The session goes on: {note}")


def _describe(config: Config, phase: PhaseSection) -> tuple[str, ...]:
    """A phase in the order of the headings."""
    length = phase.data.sequence_length
    rows = phase.global_size
    return (
        phase.name,
        phase.objective,
        str(phase.duration),
        f"{rows}" if length is None else f"{rows}x{length}",
        f"{phase.optimizer.lr:g} {phase.schedule.name}",
        phase.engine.label,
        _describe_layout(config, phase),
    )


def _describe_layout(config: Config, phase: PhaseSection) -> str:
    """How a global batch is spread: ranks x micro-batch x accumulation."""
    per_node = config.cluster.processes_per_node
    if per_node is None:
        return "any"
    num_ranks = config.cluster.nodes * per_node
    layout = BatchLayout.derive(phase.global_size, phase.batch.micro_size, num_ranks)
    padding = f"-{layout.padding_rows}" if layout.padding_rows else ""
    return f"{num_ranks}x{layout.micro_size}x{layout.accumulation_steps}{padding}"


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*_HEADINGS, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)


def _print_lines(rows: Sequence[tuple[str, ...]]) -> None:
    for idx, row in enumerate(rows):
        told = [f"{heading} {text}" for heading, text in zip(_HEADINGS, row, strict=True)]
        show(f"  phases[{idx}]: {', '.join(told)}")


def _run_command(
    loaded: LoadedConfig, overrides: Sequence[str], session: Path | None, accept: Sequence[str]
) -> str:
    from shlex import join

    cluster = loaded.config.cluster
    # `launch` starts ranks of one session, on this machine.
    name = "submit" if cluster.nodes > 1 or cluster.array else "launch"
    words = ["phaseline", name, str(loaded.source)]
    for override in overrides:
        words += ["-o", override]
    if session is not None:
        words += ["--session", str(session)]
    for key in accept:
        words += ["--accept-change", key]
    return join(words)
