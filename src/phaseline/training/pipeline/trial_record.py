"""What was tried of a session's phases, so that no start tries the same once more.

A trial is remembered by what it depends on: the phase's own settings, what its weights come
through, the world and the versions. So an accepted change of another phase repeats nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from phaseline.config.inheritance import source_phase, teacher_of, teacher_phase
from phaseline.config.sections import Config
from phaseline.distributed.world import World
from phaseline.training.pipeline.environment_record import find_versions

_LIBRARIES = ("accelerate", "deepspeed", "peft", "torch", "transformers")
_DIGEST_CHARS = 16
_MOST_RECORDS = 255


@dataclass(frozen=True)
class TrialPlace:
    """Where a trial ran, as far as its result depends on it.

    Attributes:
        world_size: Number of ranks.
        device: The device's name.
        versions: Of Python, this package and the libraries below it.
    """

    world_size: int
    device: str
    versions: dict[str, str]

    @classmethod
    def of(cls, world: World) -> TrialPlace:
        """The place of a started world."""
        is_cuda = world.device.type == "cuda"
        device = torch.cuda.get_device_name(world.device) if is_cuda else world.device.type
        return cls(world.dp_world_size, device, find_versions(_LIBRARIES))


class TrialRecord:
    """Which phases were tried, as `session.json` keeps it."""

    def __init__(
        self, config: Config, place: TrialPlace, records: Sequence[dict[str, Any]] = ()
    ) -> None:
        """Takes what was tried so far.

        Args:
            config: The session's configuration.
            place: Where trials run now.
            records: From `session.json`; those of an older shape count for nothing.
        """
        self._config = config
        self._place = place
        self._records = [
            record
            for record in records
            if all(isinstance(record.get(name), str) for name in ("phase", "key", "engine"))
        ]

    def is_tried(self, phase_idx: int) -> bool:
        """Whether a phase was tried as it is now, here."""
        key = self._key(phase_idx)
        return any(record["key"] == key for record in self._records)

    def is_checkpoint_tried(self, phase_idx: int) -> bool:
        """Whether a checkpoint of a phase's kind of engine was tried here."""
        key = self._engine_key(phase_idx)
        return any(record["engine"] == key for record in self._records)

    def with_trial(self, phase_idx: int) -> list[dict[str, Any]]:
        """The records with that of a phase's trial, which ended well just now."""
        name = self._config.phases[phase_idx].name
        key, engine = self._key(phase_idx), self._engine_key(phase_idx)
        others = [record for record in self._records if record["key"] != key]
        # Those of other worlds and settings stay: a session may go back to them.
        return [*others[-_MOST_RECORDS:], {"phase": name, "key": key, "engine": engine}]

    def _key(self, idx: int) -> str:
        config = self._config
        content = {
            "phase": config.phases[idx].model_dump(mode="json"),
            "comes through": [_shape_of(config, other) for other in _lineage(config, idx)],
            "model": config.model.model_dump(mode="json"),
            "tokenizer": config.tokenizer.model_dump(mode="json"),
        }
        return self._digest(content)

    def _engine_key(self, idx: int) -> str:
        phase = self._config.phases[idx]
        engine = phase.engine
        content = {
            "engine": [engine.kind, engine.zero_stage, engine.precision, engine.offload],
            "optimizer": [phase.optimizer.name, phase.optimizer.arguments],
            # What is trained, and of which model, decides which state there is.
            "trainable": phase.trainable.model_dump(mode="json"),
            "objective": phase.objective,
            "model": self._config.model.model_dump(mode="json"),
        }
        return self._digest(content)

    def _digest(self, content: dict[str, Any]) -> str:
        place = self._place
        world = {"ranks": place.world_size, "device": place.device, "versions": place.versions}
        text = json.dumps({**content, "world": world}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]


def _lineage(config: Config, idx: int) -> list[int]:
    """The phases whose shapes a phase's weights and its teacher come through, nearest first."""
    found: list[int] = []
    waiting = [idx]
    names = [phase.name for phase in config.phases]
    while waiting:
        at = waiting.pop(0)
        teacher = teacher_of(config.phases[at])
        taught_by = None if teacher is None else teacher_phase(teacher)
        sources = [source_phase(config, at)]
        sources += [names.index(taught_by)] if taught_by in names else []
        for source in sources:
            if source is not None and source not in found:
                found.append(source)
                waiting.append(source)
    return found


def _shape_of(config: Config, idx: int) -> dict[str, Any]:
    """What decides which parameters a phase leaves behind."""
    phase = config.phases[idx]
    return {
        "objective": [phase.objective, phase.objective_arguments],
        "trainable": phase.trainable.model_dump(mode="json"),
        "inherit": phase.inherit.model_dump(mode="json"),
    }
