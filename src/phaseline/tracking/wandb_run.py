"""The session's one wandb run. The only file that imports wandb."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import Any, Literal

import wandb
from wandb.errors import Error, UsageError
from wandb.proto import wandb_internal_pb2

from phaseline.session.files import write_text
from phaseline.session.layout import SessionLayout
from phaseline.session.stored import StoredFileError, parse_json, read_file
from phaseline.tracking.alerts import Alert, alert_of
from phaseline.tracking.tracker import WANDB, FollowedSession, tracker_folder
from phaseline.tracking.wandb_files import read_wandb_file
from phaseline.tracking.wandb_service import await_former_service, note_service

WandbRefusal = UsageError
"""What wandb raises where it takes nothing, as without a key."""
WandbTrouble = Error
"""What else it raises, as without a network."""
AXES = ("global_step", "phase_step", "tokens", "wall_s")
"""What a chart may be drawn over; the first one is the default."""
_LONGEST_START_S = 30.0

Mode = Literal["offline", "online", "disabled"]


class WandbRun:
    """Sends records of the metrics view to the session's run, wandb's step being their `seq`."""

    def __init__(self, mode: Mode | None = None) -> None:
        """Begins nothing yet.

        Args:
            mode: Instead of the configured one.
        """
        self._mode = mode
        self._run: wandb.Run | None = None
        self._changes: list[Any] = []
        self._uploads: dict[str, wandb.Artifact] = {}

    def open(self, session: FollowedSession) -> int:
        """Finds out what wandb has: online the server says it, offline the files on this disk.

        Online a file may hold steps that a killed wandb never sent, and the server steps that
        it never wrote to its file. Offline the run begins with the first record, so that a
        start that adds nothing leaves no folder behind.
        """
        self._session = session
        self._phases = [phase.name for phase in session.config.phases]
        self._mode = self._mode or session.config.tracking.wandb.mode
        self._told = _Told(_told_file(session, self._mode))
        await_former_service(session.folder)
        if self._mode == "online":
            return int(self._begun().starting_step) - 1
        return read_last_step(session.folder, session.identity.wandb_id)

    def log(self, record: Mapping[str, Any]) -> None:
        """Sends one record of the metrics view."""
        row = self._to_row(record)
        # An explicit step, sent at once: wandb would else count calls, and keep the last one.
        self._begun().log(row, step=record["seq"], commit=True)

    def event(self, event: Mapping[str, Any]) -> None:
        """Sends what an event is worth: an alert, an artifact, a change of the configuration."""
        section = self._session.config.tracking.wandb
        alert = alert_of(event, self._session.identity.name)
        if alert is not None and section.alerts and alert.key not in self._told:
            # Noted before it is sent: rather nobody hears of it than somebody twice.
            self._told.note(alert.key)
            self._alert(alert)
        if event["event"] in ("settings_changed", "settings_accepted"):
            self._changes += [{"attempt": event["attempt"], **one} for one in event["changes"]]
            self._begun().config.update({"session_changes": self._changes}, allow_val_change=True)
        is_last = event["event"] == "checkpoint_saved" and event["final"]
        if is_last and "checkpoints" in section.artifacts:
            self._upload(event, "checkpoint", self._checkpoint_of(event))
        if event["event"] == "exported" and "exports" in section.artifacts:
            layout = SessionLayout(self._session.root)
            self._upload(event, "model", layout.exports_dir / event["phase"])

    def close(self) -> None:
        """Ends the run; everything that was sent is on disk or on the server afterwards."""
        if self._run is None:
            return
        refused = self._refused_uploads()
        self._run.finish()
        # Not before: what a killed wandb had not sent is handed to it again, and a server
        # that has the same files makes no second version of them.
        self._told.note(*(key for key in self._uploads if key not in refused))
        # Else its process lives as long as this one.
        wandb.teardown()
        if refused:
            whys = "; ".join(f"{key}: {why}" for key, why in refused.items())
            raise Error(f"the server did not take every artifact: {whys}")

    def _refused_uploads(self) -> dict[str, str]:
        """Waits for the artifacts' uploads; what the server did not take, and why."""
        refused = {}
        if self._mode == "online":
            for key, artifact in self._uploads.items():
                try:
                    artifact.wait()
                except (ValueError, RuntimeError, Error) as error:
                    refused[key] = str(error)
        return refused

    def _begun(self) -> wandb.Run:
        if self._run is None:
            try:
                self._run = _begin(self._session, self._mode)
            except wandb.Error:
                wandb.teardown()  # else its process lives as long as this one
                raise
            note_service(self._session.folder)
        return self._run

    def _alert(self, alert: Alert) -> None:
        self._begun().alert(alert.title, alert.text, level=alert.level, wait_duration=0)

    def _upload(self, event: Mapping[str, Any], kind: str, folder: Path) -> None:
        """Logs a folder as an artifact, with what it comes from.

        A folder that is gone was replaced since, as when a later phase left the weights alone.
        """
        phase, key = event["phase"], f"{kind} {event['phase']}"
        if not folder.is_dir() or key in self._told or key in self._uploads:
            return
        if not folder.resolve().is_relative_to(self._session.root.resolve()):
            return  # nothing of the user's but the session's own is ever sent
        idx = self._phases.index(phase) if phase in self._phases else 0
        lineage = {
            "phase": phase,
            "attempt": event["attempt"],
            "session": self._session.identity.id,
            "config_fingerprint": self._session.identity.config_fingerprint,
            "after": self._phases[idx - 1] if idx else None,
            "weights_from": self._session.config.phases[idx].inherit.weights,
        }
        name = f"{self._session.identity.name}-{phase}-{kind}"
        artifact = wandb.Artifact(name, type=kind, metadata=lineage)
        artifact.add_dir(str(folder))
        self._uploads[key] = self._begun().log_artifact(artifact, aliases=["latest", phase])

    def _checkpoint_of(self, event: Mapping[str, Any]) -> Path:
        phase = SessionLayout(self._session.root).phase(event["phase"])
        return phase.checkpoints_dir / str(event["checkpoint"])

    def _to_row(self, record: Mapping[str, Any]) -> dict[str, Any]:
        timing, phase = dict(record["timing"]), record["phase"]
        row: dict[str, Any] = {name: record[name] for name in AXES[:-1]}
        row["session/attempt"] = record["attempt"]
        if phase in self._phases:
            row["session/phase_idx"] = self._phases.index(phase)
        if "time" in timing:
            # When it happened, not when it is sent: a follower may come late.
            row["_timestamp"] = timing.pop("time")
            row["wall_s"] = row["_timestamp"] - self._session.identity.created
        # Records hold what JSON has no number for as text, "nan" or "-inf".
        row.update((key, float(value)) for key, value in {**record["metrics"], **timing}.items())
        if record.get("samples"):
            row[f"{phase}/samples/text"] = _to_table(record["samples"])
        return row


def _begin(session: FollowedSession, mode: Mode | None) -> wandb.Run:
    """Begins the run, or goes on with it; its id is the same over all restarts."""
    section = session.config.tracking.wandb
    run = wandb.init(
        # wandb writes to a folder of that name inside.
        dir=str(session.folder.parent),
        id=session.identity.wandb_id,
        name=session.identity.name,
        resume="allow",
        mode=mode,
        project=section.project,
        entity=section.entity,
        group=section.group,
        tags=list(section.tags),
        notes=session.config.session.notes or None,
        config=session.config.model_dump(mode="json"),
        allow_val_change=True,
        settings=wandb.Settings(
            silent=True,
            console="off",
            init_timeout=_LONGEST_START_S,
            x_disable_stats=session.watched_pid is None,
            x_stats_pid=session.watched_pid or 0,
            x_stats_track_process_tree=True,
        ),
    )
    run.define_metric(AXES[0])
    run.define_metric("*", step_metric=AXES[0])
    return run


def _told_file(session: FollowedSession, mode: Mode) -> Path:
    """One for the server, whoever feeds it; offline, one for each folder of files."""
    if mode == "online":
        return tracker_folder(session.root, WANDB) / "told-online.json"
    return session.folder / "told.json"


class _Told:
    """What somebody was told of already."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys = self._read()

    def _read(self) -> list[str]:
        try:
            keys = parse_json(read_file(self._path, remedy=""), self._path, remedy="")
        except (FileNotFoundError, StoredFileError):
            return []
        return [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def note(self, *keys: str) -> None:
        if keys:
            # Whoever else feeds the server may have noted something meanwhile.
            self._keys = [*dict.fromkeys([*self._read(), *self._keys, *keys])]
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, json.dumps(self._keys) + "\n")


def read_last_step(folder: Path, run_id: str) -> int:
    """The highest step in the run's files on this disk; -1 if there is none.

    This, and not a note of what was handed to wandb, says what was sent: a wandb that is
    killed loses what it had not flushed.
    """
    steps = (step for path in _run_files(folder, run_id) for step in _steps(path))
    return max(steps, default=-1)


def _run_files(folder: Path, run_id: str) -> Sequence[Path]:
    name = escape(run_id)
    return sorted(folder.glob(f"*run-*-{name}/run-{name}.wandb"))


def _steps(path: Path) -> Iterator[int]:
    for payload in read_wandb_file(path):
        record = wandb_internal_pb2.Record.FromString(payload)
        if record.WhichOneof("record_type") == "history":
            yield int(record.history.step.num)


def _to_table(samples: Sequence[Mapping[str, Any]]) -> Any:
    columns = ["prompt", "completion", "valid"]
    rows = [[sample["prompt"], sample["completion"], sample.get("valid")] for sample in samples]
    return wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
