"""Benchmarks of a trained phase, and what is kept of them in the session's folder."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from phaseline.config.known_objectives import head_of
from phaseline.errors import UsageError
from phaseline.session.files import write_json
from phaseline.training.pipeline.text_scoring import TextScorer
from phaseline.training.pipeline.trained_phase import TrainedPhase

_UNSAFE = re.compile(r"[^\w.-]")
_BESIDE = ("alias", "name", "sample_len", "sample_count")
"""What lm-eval writes among a task's metrics and is none."""


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One metric of one task.

    Attributes:
        task: Its name.
        metric: As `acc`; with the filter that its answers went through, as `acc,strict`.
        value: What was found; None if it is no finite number.
        stderr: Its standard error; None if lm-eval knows none.
        num_examples: How many the task has looked at; None if lm-eval does not say.
    """

    task: str
    metric: str
    value: float | None
    stderr: float | None
    num_examples: int | None


def require_lm_eval() -> None:
    """Raises UsageError unless lm-eval is installed."""
    if find_spec("lm_eval") is None:
        raise UsageError(
            "`phaseline evaluate` needs the package lm-eval, which is not installed. Install it: "
            "pip install 'phaseline[lm-eval]'."
        )


def build_scorer(trained: TrainedPhase, *, batch_size: int) -> TextScorer:
    """Loads a phase's model in fp32, onto a GPU if there is one.

    Raises:
        UsageError: The phase trains a model that says no tokens.
    """
    length = trained.section.data.sequence_length
    if length is None or head_of(trained.section.objective) != "language":
        raise UsageError(
            f"{trained.phase} trains {trained.section.objective}, whose model says no tokens; "
            "tasks of lm-eval need a language model. Name another phase with --phase."
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module: Any = trained.load_model(device)
    longest = getattr(getattr(module, "config", None), "max_position_embeddings", None)
    return TextScorer(
        module,
        trained.tokenizer,
        max_length=longest or length,
        batch_size=batch_size,
    )


def evaluate_phase(
    trained: TrainedPhase, tasks: Sequence[str], *, limit: int | None, batch_size: int
) -> list[TaskResult]:
    """Runs tasks of lm-eval on a phase, and writes a file for each into the session's folder.

    Args:
        trained: The checkpoint, and what it is of.
        tasks: Folders of task files, task files, or names of lm-eval's own tasks.
        limit: So many examples of each at most; None: all.
        batch_size: Texts of a forward.

    Raises:
        UsageError: lm-eval is not installed, has no such task, or a task asks for what the
            model cannot do.
    """
    require_lm_eval()
    from phaseline.training.pipeline.lm_eval_model import run_tasks

    scorer = build_scorer(trained, batch_size=batch_size)
    found = run_tasks(scorer, tasks, limit=limit)
    results = list(results_of(found))
    for task in dict.fromkeys(result.task for result in results):
        _write(trained, [result for result in results if result.task == task], found, limit)
    return results


def results_of(found: Mapping[str, Any]) -> Iterator[TaskResult]:
    """The metrics in what lm-eval says, which has a value and its error under one name each."""
    for task, values in found["results"].items():
        counts = found.get("n-samples", {}).get(task, {})
        for key, value in values.items():
            metric, _, answers = key.partition(",")
            if metric in _BESIDE or metric.endswith("_stderr"):
                continue
            yield TaskResult(
                task=task,
                metric=metric if answers in ("", "none") else key,
                value=_number(value),
                stderr=_number(values.get(f"{metric}_stderr,{answers}")),
                num_examples=counts.get("effective"),
            )


def result_file(trained: TrainedPhase, task: str, limit: int | None) -> Path:
    """Where the results of a task are kept; those of a part of it beside those of the whole."""
    name = _UNSAFE.sub("_", task) + ("" if limit is None else f".limit-{limit}")
    step = f"step-{trained.manifest.phase_step:08d}"
    return trained.layout.evaluations_dir / trained.phase / step / f"{name}.json"


def _write(
    trained: TrainedPhase,
    results: Sequence[TaskResult],
    found: Mapping[str, Any],
    limit: int | None,
) -> None:
    task, manifest = results[0].task, trained.manifest
    path = result_file(trained, task, limit)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "task": task,
        "task_version": str(found.get("versions", {}).get(task, "")),
        "num_fewshot": found.get("n-shot", {}).get(task),
        "limit": limit,
        "num_examples": results[0].num_examples,
        "metrics": {
            result.metric: {"value": result.value, "stderr": result.stderr} for result in results
        },
        "session": manifest.session,
        "phase": trained.phase,
        "phase_step": manifest.phase_step,
        "global_step": manifest.global_step,
        "tokens": manifest.tokens,
        "checkpoint": str(trained.checkpoint.relative_to(trained.layout.root)),
        "lm_eval_version": version("lm-eval"),
        "time": time.time(),
    }
    write_json(path, content)


def _number(value: object) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]  # told by is_number
