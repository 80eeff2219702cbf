"""`phaseline prepare`: data is tokenised and cached before anything trains, on CPUs alone."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from phaseline.cli.options import ConfigFile, Overrides, SessionDir
from phaseline.cli.showing import show
from phaseline.config.model_head import trains_classes
from phaseline.config.places import looking_in
from phaseline.errors import StopRequestedError, UsageError, printable
from phaseline.resilience.stop_flag import listening
from phaseline.session.layout import SessionLayout
from phaseline.session.session_file import load_session_file
from phaseline.training.pipeline.changed_settings import as_session_calls_it

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from phaseline.config.sections import Config, PhaseSection
    from phaseline.data.preview import PreviewedSequence
    from phaseline.data.progress import Progress

_LONGEST_PREVIEW = 4000
_LEARNT_FROM, _LEARNT_TO = "\u27e6", "\u27e7"


def prepare(
    config: ConfigFile,
    override: Overrides = None,
    session: SessionDir = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Prepare the I-th of N shares, as in job I of a SLURM array from 1 to N. "
            "Once all are there, prepare without it, or run, puts them together.",
        ),
    ] = None,
    preview: Annotated[
        bool,
        typer.Option("--preview", help="Show samples as they will be learnt, and prepare nothing."),
    ] = False,
    phase: Annotated[
        str | None, typer.Option(help="With --preview: this phase alone. Default: all.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="With --preview: so many samples of each source. Default: 2."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Read all that is prepared and compare it with its hashes; what is damaged is "
            "made anew. A session compares what it trains on by itself.",
        ),
    ] = False,
) -> None:
    """Prepare the data of a session: read, tokenise and cache it. Needs no GPU.

    `run` does it as well; what is prepared once is not prepared again. Ctrl-C leaves nothing
    half-done, and what was finished stays. Exit code 75: stopped on request. Of a session that
    has begun, paths lead to where the session finds them; --session names it as `launch` does.
    """
    _require_effect(preview=preview, phase=phase, samples=samples, shard=shard)
    for name, is_given in (("--preview", preview), ("--shard", shard is not None)):
        if verify and is_given:
            raise UsageError(f"--verify has no effect with {name}. Remove one of them.")
    loaded = load_session_file(config, override or (), session_dir=session)
    wanted, places = as_session_calls_it(SessionLayout(loaded.session_dir), loaded.config)
    if preview:
        with looking_in(places):
            _preview(wanted, _phases(wanted, phase), samples or 2)
        return
    with looking_in(places), _display() as (say, progress), listening(None) as stop_flag:

        def proceed() -> None:
            if stop_flag.is_set:
                raise StopRequestedError(
                    f"{stop_flag.reason}: what was finished stays in the cache, nothing is "
                    "half-done, and the same command does the rest."
                )

        _prepare(wanted, shard, say, proceed, progress, verifies=verify)


def _prepare(
    config: Config,
    shard: str | None,
    say: Callable[[str], None],
    proceed: Callable[[], None],
    progress: Progress | None,
    *,
    verifies: bool,
) -> None:
    from phaseline.data import preparation
    from phaseline.data.shards import Shard

    if shard is None:
        preparation.prepare(config, say, proceed, progress=progress, verifies=verifies)
    else:
        part = Shard.parse(shard)
        preparation.prepare_shard(config, say, part, proceed, progress=progress)


def _require_effect(
    *, preview: bool, phase: str | None, samples: int | None, shard: str | None
) -> None:
    """Raises UsageError if an option would change nothing."""
    if preview and shard is not None:
        raise UsageError("--shard has no effect with --preview. Remove one of them.")
    for name, value in (("--phase", phase), ("--samples", samples)):
        if value is not None and not preview:
            raise UsageError(f"{name} has no effect without --preview. Add it, or remove {name}.")


def _phases(config: Config, name: str | None) -> Sequence[PhaseSection]:
    names = [phase.name for phase in config.phases]
    if name is not None and name not in names:
        raise UsageError(f"--phase is {name!r}; the session's phases are {', '.join(names)}.")
    return [phase for phase in config.phases if name in (None, phase.name)]


@contextmanager
def _display() -> Iterator[tuple[Callable[[str], None], Progress | None]]:
    """How to say a line, and what shows how far a source is."""
    from phaseline.data.progress import RichProgress

    if not sys.stdout.isatty():
        yield show, None
        return
    with RichProgress() as progress:
        yield progress.say, progress


def _preview(config: Config, phases: Sequence[PhaseSection], num_samples: int) -> None:
    from phaseline.data.preview import preview

    has_colour = sys.stdout.isatty()
    if not all(map(trains_classes, phases)):
        typer.echo(_legend(has_colour))
    for phase in phases:
        for sequence in preview(config, phase, num_samples, show):
            which = f" ({sequence.name})" if sequence.name else ""
            head = f"\n--- phase {phase.name}: {sequence.source}: {sequence.sample_id}{which}: "
            if sequence.dropped:
                show(f"{head}dropped, {sequence.dropped}")
                continue
            show(f"{head}{_measure(sequence)}")
            if sequence.runs:
                typer.echo(_show(sequence, has_colour))


def _measure(sequence: PreviewedSequence) -> str:
    if sequence.numbers:
        return f"{sequence.numbers}, label {sequence.label}"
    tokens = f"{sequence.num_tokens} tokens"
    if sequence.label:
        return f"{tokens}, label {sequence.label}"
    return f"{tokens}, {sequence.num_learnt} learnt"


def _legend(has_colour: bool) -> str:
    if has_colour:
        return f"{_learnt('green')} is learnt, {_read('dim')} is only read"
    return f"What is between {_LEARNT_FROM} and {_LEARNT_TO} is learnt, the rest is only read."


def _show(sequence: PreviewedSequence, has_colour: bool) -> str:
    parts = []
    left = _LONGEST_PREVIEW
    for run in sequence.runs:
        text = printable(run.text[:left])
        left -= len(text)
        if has_colour:
            parts.append(_learnt(text) if run.is_learnt else _read(text))
        else:
            parts.append(f"{_LEARNT_FROM}{text}{_LEARNT_TO}" if run.is_learnt else text)
        if len(text) < len(run.text) or left == 0:
            parts.append(f"\n(the first {_LONGEST_PREVIEW} characters)")
            break
    return "".join(parts)


def _learnt(text: str) -> str:
    return typer.style(text, fg=typer.colors.GREEN)


def _read(text: str) -> str:
    return typer.style(text, dim=True)
