"""The `phaseline` command: its subcommands, and the exit code of each kind of failure."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Annotated, NoReturn

import typer

from phaseline.errors import ExitCode, PhaselineError, printable

_RUNNING = "Running a session"
_LOOKING = "Looking at a session"
_USING = "Using what was trained"

COMMANDS = {
    "launch": ("phaseline.cli.launch:launch", _RUNNING),
    "run": ("phaseline.cli.run:run", _RUNNING),
    "prepare": ("phaseline.cli.prepare:prepare", _RUNNING),
    "submit": ("phaseline.cli.submit:submit", _RUNNING),
    "stop": ("phaseline.cli.stop:stop", _RUNNING),
    "branch": ("phaseline.cli.branch:branch", _RUNNING),
    "validate": ("phaseline.cli.validate:validate", _RUNNING),
    "status": ("phaseline.cli.inspect:status", _LOOKING),
    "metrics": ("phaseline.cli.inspect:metrics", _LOOKING),
    "watch": ("phaseline.cli.watch:watch", _LOOKING),
    "stacks": ("phaseline.cli.stacks:stacks", _LOOKING),
    "report": ("phaseline.cli.report:report", _LOOKING),
    "verify": ("phaseline.cli.verify:verify", _LOOKING),
    "sync": ("phaseline.cli.sync:sync", _LOOKING),
    "export": ("phaseline.cli.export:export", _USING),
    "sample": ("phaseline.cli.sample:sample", _USING),
    "evaluate": ("phaseline.cli.evaluate:evaluate", _USING),
}
"""Every subcommand: where its function lives, and the panel of the help it stands in."""


def build_app(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """Assembles the command from the named subcommands; only their modules are imported."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    for name in names:
        home, panel = COMMANDS[name]
        module, _, attribute = home.partition(":")
        app.command(name, rich_help_panel=panel)(getattr(import_module(module), attribute))
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process with the code of what happened.

    Args:
        arguments: Words after the program's name; None: those of this process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _require_text(words)
    # Every rank starts through here, once per phase: it pays for its own command only.
    named = [word for word in words[:1] if word in COMMANDS]
    app = build_app(named or COMMANDS)
    try:
        app(args=words, prog_name="phaseline")
    except PhaselineError as error:
        sys.stderr.write(f"phaseline: {printable(str(error))}\n")
        sys.exit(int(error.exit_code))
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        sys.stderr.write(
            f"phaseline: {error.filename} cannot be used: {error.strerror}. "
            "Name a session directory that can be read and written.\n"
        )
        sys.exit(int(ExitCode.USAGE))
    except OSError as error:
        _end_with(error)


def _end_with(error: OSError) -> NoReturn:
    """Ends the process with what a file system refused: 1 where another try may succeed.

    Raises:
        OSError: The same, if it names no file.
    """
    from phaseline.session.files import PASSING

    if error.filename is None:
        raise error
    shown = printable(str(error.filename))
    if error.errno == errno.ENAMETOOLONG:
        sys.stderr.write(f"phaseline: {shown[:60]}... is longer than a path can be. Shorten it.\n")
    elif error.errno in PASSING:
        sys.stderr.write(
            f"phaseline: {shown} cannot be read or written now: {error.strerror}. The same command "
            "does it once it can.\n"
        )
        sys.exit(int(ExitCode.FAILED))
    else:
        sys.stderr.write(f"phaseline: {shown} cannot be used: {error.strerror}.\n")
    sys.exit(int(ExitCode.USAGE))


def _require_text(words: Sequence[str]) -> None:
    """Ends the process if an argument is no text; a shell may hand over any bytes."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            shown = ascii(word)
            sys.stderr.write(
                f"phaseline: the argument {shown} is no text in UTF-8. Write it in UTF-8; of a "
                "folder or file, rename it.\n"
            )
            sys.exit(int(ExitCode.USAGE))


def _show_version(wanted: bool) -> None:
    if wanted:
        from phaseline import __version__

        typer.echo(f"phaseline {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Train a model through several phases as one resumable session.

    The same command starts a session, resumes it after any interruption, and says so when
    it is finished. Start with: phaseline launch configs/quickstart.yaml

    Exit codes: 0 finished, 1 failed, 2 usage or configuration, 3 stopped by a gate, 4 no
    progress, 75 stopped on request with everything saved (run the same command again).
    """
