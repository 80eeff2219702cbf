"""`phaseline evaluate`: tasks of lm-eval on any checkpoint of a session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phaseline.cli.options import (
    BestOfPhase,
    PhaseName,
    PhaseStep,
    TrustCode,
    require_one_choice,
)
from phaseline.cli.showing import show, warn
from phaseline.cli.trust import code_of_session
from phaseline.session.confinement import require_confined
from phaseline.session.layout import SessionLayout

if TYPE_CHECKING:
    from phaseline.training.pipeline.task_evaluation import TaskResult

_HEADINGS = ("task", "metric", "value", "stderr", "examples")


def evaluate(
    directory: Annotated[Path, typer.Argument(help="The session directory.")],
    tasks: Annotated[
        list[str],
        typer.Option(
            "--tasks",
            metavar="PATH_OR_NAME",
            help="A folder of lm-eval's task files, one such file, or the name of a task that "
            "lm-eval brings. Repeatable.",
        ),
    ],
    phase: PhaseName = None,
    step: PhaseStep = None,
    best: BestOfPhase = False,
    trust_code: TrustCode = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="So many examples of each task at most.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=10**6, help="Texts of one forward.")] = 8,
) -> None:
    """Run benchmarks on a phase's weights: tasks of lm-eval, from your own folder or its own.

    Prints a table, and writes a file for each task under `evaluations/` of the session. A task
    file of your own needs no network; those of lm-eval fetch their data from the hub.
    """
    require_one_choice(step, best=best)
    # Not above: torch and transformers take seconds, and the help needs neither.
    from phaseline.training.pipeline.task_evaluation import (
        evaluate_phase,
        require_lm_eval,
        result_file,
    )
    from phaseline.training.pipeline.trained_phase import TrainedPhase

    require_lm_eval()
    require_confined(SessionLayout(directory))
    with code_of_session(directory, is_trusted=trust_code):
        trained = TrainedPhase.find(directory, phase, step=step, best=best, say=warn)
        results = evaluate_phase(trained, tasks, limit=limit, batch_size=batch_size)
    show(f"{trained.phase} at step {trained.manifest.phase_step}")
    for line in _table(results):
        show(line)
    show(f"written to {result_file(trained, results[0].task, limit).parent}")


def _table(results: Sequence[TaskResult]) -> list[str]:
    rows = [_HEADINGS, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _row(result: TaskResult) -> tuple[str, ...]:
    value, stderr = (
        "-" if number is None else f"{number:.4f}" for number in (result.value, result.stderr)
    )
    count = "-" if result.num_examples is None else str(result.num_examples)
    return (result.task, result.metric, value, stderr, count)
