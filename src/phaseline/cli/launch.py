"""`phaseline launch`: runs a session on this machine, whatever the machine has."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Annotated

import typer

from phaseline.checkpoint.foreign_checks import weights_can_be_read
from phaseline.cli.finished import is_finished
from phaseline.cli.options import AcceptChanges, ConfigFile, Overrides, SessionDir, TakeOver
from phaseline.cluster.accelerators import count_gpus
from phaseline.cluster.addresses import ports_of
from phaseline.cluster.launch_command import Machines, build_launch_command
from phaseline.cluster.restarts import launch_again
from phaseline.cluster.verdict import describe_finished
from phaseline.config.loading import LoadedConfig
from phaseline.errors import UsageError, printable
from phaseline.session.layout import SessionLayout
from phaseline.session.session_file import load_session_file
from phaseline.session.stack_request import request_stacks
from phaseline.session.starting import announced
from phaseline.session.sweep import SweepTrial
from phaseline.tracking.display_building import DisplayKind, can_redraw
from phaseline.tracking.formatting import wrap_words

_FRESH_LINE = "\r\x1b[K"


def launch(
    config: ConfigFile,
    assignments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="The same as -o; what a wandb sweep hands over."
        ),
    ] = None,
    override: Overrides = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="Ranks to start. Default: cluster.processes_per_node, else one per GPU, else 1.",
        ),
    ] = None,
    session: SessionDir = None,
    max_restarts: Annotated[
        int,
        typer.Option(
            min=0,
            help="Start again so often when the ranks fail. It ends before with exit code 4 when "
            "resilience.max_starts_without_progress starts leave no new checkpoint.",
        ),
    ] = 0,
    take_over: TakeOver = False,
    accept_change: AcceptChanges = None,
) -> None:
    """Start, resume or continue a session on this machine.

    The same command again goes on where the session stands, after Ctrl-C, a crash or a
    reboot; a finished session says so. Ctrl-C saves at the next step, and a second one within
    two seconds leaves at once. A closed terminal saves and stops as well.

    Under `wandb agent` each trial is a session of its own, in <session.name>-<run id>.

    Settings may change between starts. What keeps the numbers passes and is recorded: the
    number of ranks, the engine, notes, tracking, checkpoints, phases still to come. What
    would change them is refused with its line, unless --accept-change names it.
    """
    overrides = [*(override or ()), *(assignments or ())]
    trial = SweepTrial.of()
    if trial is not None and session is None:
        session = trial.session_dir(load_session_file(config, overrides).session_dir)
    rules = weights_can_be_read(session)
    loaded = load_session_file(config, overrides, session_dir=session, rules=rules)
    _require_one_machine(loaded)
    layout = SessionLayout(loaded.session_dir)
    if is_finished(loaded):
        _say(describe_finished(layout))
        return
    # Before GPUs are counted and libraries are loaded, which takes some seconds each.
    _say(f"Starting {layout.root}; this takes some seconds.")
    with _stacks_on_quit(layout), announced(layout):
        num_gpus = count_gpus()
        num_processes = _num_processes(processes, loaded, num_gpus)
        if loaded.config.cluster.processes_per_node != num_processes:
            # Said to the configuration, so that batch sizes are checked against it now.
            overrides.append(f"cluster.processes_per_node={num_processes}")
            loaded = load_session_file(config, overrides, session_dir=session, rules=rules)
        command = build_launch_command(
            config,
            overrides=overrides,
            session_dir=session,
            num_processes=num_processes,
            has_gpu=num_gpus > 0,
            take_over=take_over,
            accept_changes=accept_change or (),
            # Launches that begin at the same moment each look at other ports first.
            machines=Machines(port=next(ports_of(os.getpid()), 0)),
        )
        code = launch_again(
            command,
            layout,
            say=_say,
            flash=_flash_for(loaded.config.tracking.console),
            max_restarts=max_restarts,
            max_without_progress=loaded.config.resilience.max_starts_without_progress,
        )
    raise typer.Exit(int(code))


@contextmanager
def _stacks_on_quit(layout: SessionLayout) -> Iterator[None]:
    """Ctrl-Backslash at the terminal makes all ranks write their stacks, and ends nothing."""

    def ask(_number: int, _frame: FrameType | None) -> None:
        attempt = layout.attempt(max(layout.attempt_numbers(), default=0))
        if not attempt.dir.is_dir():
            return
        try:
            request_stacks(attempt)
        except OSError as error:
            # Raised from here it would end the launcher, and the ranks with it.
            _say(f"the ranks cannot be asked for their stacks: {error}")
            return
        _say(f"all ranks write the stacks of their threads to {attempt.stacks_dir}")

    before = signal.signal(signal.SIGQUIT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGQUIT, before)


def _require_one_machine(loaded: LoadedConfig) -> None:
    nodes = loaded.config.cluster.nodes
    if nodes != 1:
        raise UsageError(
            f"cluster.nodes is {nodes} in {loaded.source}, and `phaseline launch` starts ranks on "
            "this machine only. Use `phaseline submit` for SLURM, or run `accelerate launch "
            "--config_file launch/multi_node.yaml` on every machine, or add -o cluster.nodes=1."
        )


def _num_processes(asked: int | None, loaded: LoadedConfig, num_gpus: int) -> int:
    """Ranks to start: as asked, else as configured, else one per GPU, else one.

    Raises:
        UsageError: There are fewer GPUs.
    """
    num_processes = asked or loaded.config.cluster.processes_per_node or max(1, num_gpus)
    if 0 < num_gpus < num_processes:
        raise UsageError(
            f"{num_processes} ranks are asked for, and {num_gpus} GPU(s) are visible; each rank needs "
            f"one. Use --processes {num_gpus}, or set CUDA_VISIBLE_DEVICES= to train on the CPU."
        )
    return num_processes


def _say(text: str) -> None:
    shown = printable(text)
    if can_redraw(sys.stderr):
        # What was flashed goes.
        shown = _FRESH_LINE + "\n".join(wrap_words(shown, _width() - 1))
    _write(f"{shown}\n")


def _flash_for(console: DisplayKind) -> Callable[[str], None] | None:
    """How to show a line while the main rank shows the session in one way or another."""
    return _flash if console in ("auto", "rich") else None


def _flash(text: str) -> None:
    """Shows a line below what a rank draws, without moving the cursor down: it counts lines."""
    if not can_redraw(sys.stderr):
        _say(text)
        return
    _write(f"{_FRESH_LINE}{printable(text)[: _width() - 1]}")


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _write(text: str) -> None:
    # Whoever read it may be gone, as after `launch | head`: the session is not to end with them.
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
