"""A folder in which a test runs whole sessions, in this process."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from phaseline.checkpoint.manifest import list_published, verify
from phaseline.checkpoint.reader import CheckpointReader, weights_name
from phaseline.resilience.stop_flag import StopFlag
from phaseline.session.attempts import Outcome
from phaseline.session.layout import SessionLayout
from phaseline.session.metrics_view import read_metrics
from phaseline.training_pipeline import TrainingPipeline


@dataclass(frozen=True)
class SessionPlace:
    """The folder, and what a callback of the sessions there is to do.

    Attributes:
        folder: Where session files and sessions lie.
        module: The user's own code there; its `stops` say after which steps a flag is set.
        last_phase: Of the sessions.
    """

    folder: Path
    module: Any
    last_phase: str

    @classmethod
    def make(
        cls, folder: Path, monkeypatch: pytest.MonkeyPatch, *, module: str, code: str, last: str
    ) -> SessionPlace:
        """Makes a folder the place from which paths and the user's code are found."""
        monkeypatch.setenv("PHASELINE_CACHE", str(folder / "cache"))
        monkeypatch.chdir(folder)
        (folder / f"{module}.py").write_text(code, encoding="utf-8")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, module, raising=False)
        return cls(folder, importlib.import_module(module), last)

    def run(
        self,
        name: str,
        *overrides: str,
        flag: StopFlag | None = None,
        accept: Sequence[str] = (),
    ) -> Outcome:
        """Starts the session of `session.yaml` in a folder, or goes on with it."""
        return TrainingPipeline(
            self.folder / "session.yaml",
            overrides=overrides,
            session_dir=self.folder / name,
            stop_flag=flag,
            accept_changes=accept,
        ).run()

    def run_until(self, name: str, step: int, *overrides: str) -> Outcome:
        """The same, and asks it to stop once a step of the session is done."""
        flag = StopFlag()
        self.module.stops[step] = flag
        return self.run(name, *overrides, flag=flag)

    def layout(self, name: str) -> SessionLayout:
        return SessionLayout(self.folder / name)

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        """All tensors that the last phase's last checkpoint holds."""
        folder = list_published(self.layout(name).phase(self.last_phase).checkpoints_dir)[-1]
        assert verify(folder).final
        with CheckpointReader(folder) as reader:
            assert reader.manifest.world_size == 1
        with safe_open(folder / weights_name(0), framework="pt") as file:
            return {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118

    def metrics(self, name: str) -> list[dict[str, Any]]:
        """Records without timing."""
        return [
            {key: value for key, value in record.items() if key != "timing"}
            for record in read_metrics(self.layout(name))
        ]
