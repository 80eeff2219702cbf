"""Choosing one of a phase's checkpoints: its last, its best, or that of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from phaseline.checkpoint.manifest import Manifest, parse_name, verify
from phaseline.checkpoint.retention import Best, best_of
from phaseline.config.sections import Config, PhaseSection
from phaseline.errors import CheckpointError, CheckpointUnreachableError, ExitCode


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which checkpoint of a phase.

    Attributes:
        phase: The phase's name.
        best: What makes one the best; None: the last.
        step: The step of the phase; None: any.
        final: Whether the phase must be finished with it.
    """

    phase: str
    best: Best | None = None
    step: int | None = None
    final: bool = False

    def __str__(self) -> str:
        if self.step is not None:
            return f"checkpoint of {self.phase} at step {self.step}"
        return f"{'best' if self.best else 'final' if self.final else 'last'} checkpoint of {self.phase}"


def best_by(phase: PhaseSection) -> Best | None:
    """What makes a checkpoint of a phase the best, if its configuration says so."""
    kept = phase.checkpoint.keep_best
    return None if kept is None else Best(kept.metric, kept.mode)


def wanted_of(config: Config, phase: str, at: str) -> Wanted:
    """The checkpoint that the configuration's `last` or `best` means.

    Raises:
        CheckpointError: The phase keeps no best.
    """
    section = next(section for section in config.phases if section.name == phase)
    best = best_by(section) if at == "best" else None
    if at == "best" and best is None:
        raise CheckpointError(
            f"{phase} keeps no best checkpoint. Set its checkpoint.keep_best, or take the last."
        )
    return Wanted(phase=phase, best=best, final=at == "last")


def choose(
    wanted: Wanted,
    folders: Sequence[Path],
    *,
    session: str | None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Returns the checkpoint that is wanted, every byte of it verified.

    Args:
        wanted: Which.
        folders: Checkpoints that may be trusted, in any order.
        session: The session that it must be of; None: whichever wrote it.
        say: Told of each that was left out because it is damaged.

    Raises:
        CheckpointError: There is none, or it does not verify.
        CheckpointUnreachableError: One cannot be looked at just now.
    """
    found, problems = _of_phase(wanted, folders, session)
    if wanted.best is not None:
        best = best_of(found, wanted.best)
        found = [entry for entry in found if entry[0] == best]
    for path, _ in reversed(found):
        try:
            verify(path)
        except CheckpointUnreachableError:
            raise
        except CheckpointError as error:
            problems.append(str(error))
        else:
            for problem in problems:
                say(f"left out: {problem}")
            return path
    why = f" {problems[-1]}" if problems else ""
    steps = sorted(
        {m.phase_step for _, m in _of_phase(Wanted(phase=wanted.phase), folders, session)[0]}
    )
    offer = f" There are checkpoints at the steps {', '.join(map(str, steps))}." if steps else ""
    absent = CheckpointError(f"There is no {wanted} that can be read.{why}{offer}")
    if not problems:
        absent.exit_code = ExitCode.USAGE  # what was never saved is not there next time
    raise absent


def _of_phase(
    wanted: Wanted, folders: Sequence[Path], session: str | None
) -> tuple[list[tuple[Path, Manifest]], list[str]]:
    """Checkpoints that come into question, oldest first, and what is wrong with others."""
    found, problems = [], []
    for path in folders:
        if path.parents[2].name != wanted.phase:
            continue
        try:
            manifest = Manifest.load(path)
        except CheckpointUnreachableError:
            raise
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if session is not None and manifest.session != session:
            continue
        if wanted.final and not manifest.final:
            continue
        if wanted.step is None or manifest.phase_step == wanted.step:
            found.append((path, manifest))
    found.sort(key=lambda entry: (parse_name(entry[0].name) or (0, 0), not entry[1].weights_only))
    return found, problems
