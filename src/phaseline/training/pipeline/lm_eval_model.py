"""A trained phase as lm-eval sees a model. Needs the extra `lm-eval`; only it imports this."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from phaseline.errors import UsageError
from phaseline.training.pipeline.text_scoring import TextScorer

_NUM_RESAMPLES = 1000
"""Of bootstrapped standard errors."""
_DEFAULT_NEW_TOKENS = 256
_UNDERSTOOD = ("until", "max_gen_toks", "do_sample", "temperature")


class SessionModel(LM):  # type: ignore[misc]  # lm_eval publishes no types
    """Answers the three kinds of requests that tasks have, each in its order."""

    def __init__(self, scorer: TextScorer) -> None:
        """Takes what scores and writes."""
        super().__init__()
        self._scorer = scorer

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is the greedy one."""
        found = self._scorer.continuations([request.args for request in requests])
        return [(one.log_probability, one.is_greedy) for one in found]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Log-probability of each text as a whole."""
        return self._scorer.wholes([request.args[0] for request in requests])

    def generate_until(self, requests: list[Any]) -> list[str]:
        """What the model writes after each context."""
        return [self._write(*request.args) for request in requests]

    def _write(self, context: str, settings: Mapping[str, Any]) -> str:
        unknown = sorted(
            key for key, value in settings.items() if key not in _UNDERSTOOD and value is not None
        )
        if unknown:
            raise UsageError(
                f"The task's generation_kwargs have {', '.join(unknown)}, which is not supported. "
                f"Supported are {', '.join(_UNDERSTOOD)}."
            )
        until = settings.get("until") or ()
        drawn = settings.get("do_sample", False)
        return self._scorer.go_on(
            context,
            until=[until] if isinstance(until, str) else until,
            max_new_tokens=int(settings.get("max_gen_toks") or _DEFAULT_NEW_TOKENS),
            temperature=float(settings.get("temperature") or 1.0) if drawn else 0.0,
        )


def run_tasks(scorer: TextScorer, wanted: Sequence[str], *, limit: int | None) -> Mapping[str, Any]:
    """Runs tasks, and returns what lm-eval says of them.

    Args:
        scorer: The model.
        wanted: Folders of task files, task files, or names of lm-eval's own tasks.
        limit: So many examples of each task at most; None: all.

    Raises:
        UsageError: There is no such task.
    """
    folders = [Path(text) for text in wanted if Path(text).is_dir()]
    files = [text for text in wanted if Path(text).is_file()]
    names = [text for text in wanted if not Path(text).exists()]
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    manager = TaskManager(include_path=folders or None, include_defaults=bool(names))
    for name in names:
        _require_known(name, manager.all_tasks)
    own = [name for folder in folders for name in _tasks_in(folder)]
    with _in_this_process():
        found: Mapping[str, Any] | None = simple_evaluate(
            model=SessionModel(scorer),
            tasks=[*names, *files, *own],
            task_manager=manager,
            limit=limit,
            log_samples=False,
            bootstrap_iters=_NUM_RESAMPLES,
        )
    assert found is not None
    return found


def _tasks_in(folder: Path) -> list[str]:
    names: list[str] = TaskManager(include_path=folder, include_defaults=False).all_subtasks
    if not names:
        raise UsageError(
            f"--tasks names the folder {folder}, which has no task. A task is a YAML file with "
            "`task: NAME`, as lm-eval's own."
        )
    return names


def _require_known(name: str, known: Sequence[str]) -> None:
    if name in known:
        return
    near = get_close_matches(name, known, n=1)
    fix = f"Did you mean {near[0]}?" if near else "Name a folder, a file or one of lm-eval's tasks."
    raise UsageError(f"--tasks is {name!r}, which is no path and no task of lm-eval. {fix}")


@contextmanager
def _in_this_process() -> Iterator[None]:
    """Keeps lm-eval from forking this process, which holds torch's threads, to resample."""
    name = "DISABLE_MULTIPROC"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
