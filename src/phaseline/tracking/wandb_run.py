"""The session's one wandb run. The only file that imports wandb."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from wandb.proto import wandb_internal_pb2

from phaseline.config.sections import Config
from phaseline.session.identity import SessionIdentity
from phaseline.tracking.wandb_files import read_wandb_file

AXIS = "global_step"


class WandbRun:
    """Sends records of the metrics view to the session's run, wandb's step being their `seq`."""

    def __init__(self, run: wandb.Run) -> None:
        """Takes a run that `open` began."""
        self._run = run

    @classmethod
    def open(
        cls, session_dir: Path, identity: SessionIdentity, config: Config, *, watched_pid: int
    ) -> WandbRun:
        """Begins the run, or goes on with it.

        Args:
            session_dir: wandb writes to `wandb/` inside.
            identity: Gives the run's id and name, the same over all restarts.
            config: The resolved configuration; it is also shown with the run.
            watched_pid: The process whose use of the machine is recorded, children included.
        """
        section = config.tracking.wandb
        run = wandb.init(
            dir=str(session_dir),
            id=identity.wandb_id,
            name=identity.name,
            resume="allow",
            mode=section.mode,
            project=section.project,
            entity=section.entity,
            group=section.group,
            tags=list(section.tags),
            notes=config.session.notes or None,
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(
                silent=True,
                console="off",
                x_stats_pid=watched_pid,
                x_stats_track_process_tree=True,
            ),
        )
        run.define_metric(AXIS)
        run.define_metric("*", step_metric=AXIS)
        return cls(run)

    @property
    def last_step_on_server(self) -> int:
        """The last step that the server knows of; -1 if none, or if nobody was asked."""
        return int(self._run.starting_step) - 1

    def log(self, record: Mapping[str, Any]) -> None:
        """Sends one record of the metrics view."""
        # An explicit step, sent at once: wandb would else count calls, and keep the last one.
        self._run.log(_to_row(record), step=record["seq"], commit=True)

    def finish(self) -> None:
        """Ends the run; everything that was sent is on disk or on the server afterwards."""
        self._run.finish()


def read_last_step(session_dir: Path, run_id: str) -> int:
    """The highest step in the run's files on this disk; -1 if there is none.

    This, and not a note of what was handed to wandb, says what was sent: a wandb that is
    killed loses what it had not flushed.
    """
    steps = (step for path in _run_files(session_dir, run_id) for step in _steps(path))
    return max(steps, default=-1)


def _run_files(session_dir: Path, run_id: str) -> Sequence[Path]:
    return sorted((session_dir / "wandb").glob(f"*run-*-{run_id}/run-{run_id}.wandb"))


def _steps(path: Path) -> Iterator[int]:
    for payload in read_wandb_file(path):
        record = wandb_internal_pb2.Record.FromString(payload)
        if record.WhichOneof("record_type") == "history":
            yield int(record.history.step.num)


def _to_row(record: Mapping[str, Any]) -> dict[str, Any]:
    timing = dict(record["timing"])
    row: dict[str, Any] = {AXIS: record[AXIS], "tokens": record["tokens"]}
    if "time" in timing:
        # When it happened, not when it is sent: a follower may come late.
        row["_timestamp"] = timing.pop("time")
    # Records hold what JSON has no number for as text, "nan" or "-inf".
    row.update((key, float(value)) for key, value in {**record["metrics"], **timing}.items())
    if record.get("samples"):
        row[f"{record['phase']}/samples/text"] = _to_table(record["samples"])
    return row


def _to_table(samples: Sequence[Mapping[str, Any]]) -> Any:
    columns = ["prompt", "completion", "valid"]
    rows = [[sample["prompt"], sample["completion"], sample.get("valid")] for sample in samples]
    return wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
