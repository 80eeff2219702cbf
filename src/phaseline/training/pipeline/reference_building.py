"""What a phase on preferences is held against: where it comes from, and whether it is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from phaseline.checkpoint.stateful import StatefulRegistry
from phaseline.data.fingerprints import fingerprint_of
from phaseline.data.phase_data import PhaseData
from phaseline.data.tokenizer import Tokenizer
from phaseline.distributed.engines import Engine
from phaseline.distributed.world import World
from phaseline.errors import DataError
from phaseline.models.compilation import compile_module
from phaseline.models.skeleton import give_memory
from phaseline.objectives import Objective
from phaseline.objectives.base import reference_of
from phaseline.training.phases.reference import (
    BaseReference,
    FrozenReference,
    NoReference,
    Reference,
    StoredReference,
)
from phaseline.training.phases.reference_files import SIDES, ReferenceFiles
from phaseline.training.pipeline.configuration_builder import TrainingConfiguration
from phaseline.training.pipeline.engine_building import build_frozen_skeleton
from phaseline.training.pipeline.frozen_models import freeze
from phaseline.training.pipeline.phase_start import PhaseStart


class ReferenceOrigin:
    """The weights that a phase began with, by name; part of its checkpoints."""

    def __init__(self, phase: str) -> None:
        """Knows none yet.

        Args:
            phase: The phase's name, for messages.
        """
        self.weights = ""
        self._phase = phase

    def note(self, start: PhaseStart, world: World) -> None:
        """Takes the name of what a phase starts with. **Ranks:** all; the main one reads."""
        name = start.fingerprint if world.is_main else ""
        self.weights = str(world.gather_objects(name)[0])

    def require_same(self, start: PhaseStart, world: World) -> None:
        """Raises if a frozen model would be made of other weights. **Ranks:** all.

        Raises:
            DataError: What lies there is not what the phase began with.
        """
        found = ReferenceOrigin(self._phase)
        found.note(start, world)
        if found.weights != self.weights:
            raise DataError(
                f"The weights that {self._phase} began with are its reference, and what lies at "
                f"{start.path} now is something else (fingerprint {self.weights}, now "
                f"{found.weights}). Put them back as they were, or start a new session."
            )

    def state_dict(self) -> dict[str, Any]:
        """Returns the name."""
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the name from a checkpoint of the phase."""
        self.weights = state["weights"]


class ReferenceBuilding:
    """Builds what one phase is held against."""

    def __init__(
        self,
        configuration: TrainingConfiguration,
        phase_idx: int,
        objective: Objective,
        world: World,
        folder: Path,
        *,
        fence: Callable[[], None],
    ) -> None:
        """Takes the phase.

        Args:
            configuration: The run's configuration.
            phase_idx: Which phase.
            objective: What it minimises.
            world: The started world.
            folder: Where measured log-probabilities are kept.
            fence: Raises in a process that must not write there any more.
        """
        self._configuration = configuration
        self._phase_idx = phase_idx
        self._section = configuration.config.phases[phase_idx]
        self._kind = reference_of(objective)
        self._world = world
        self._folder = folder
        self._fence = fence
        self._origin = ReferenceOrigin(self._section.name)
        self._frozen: torch.nn.Module | None = None

    def prepare(self, stateful: StatefulRegistry, tokenizer: Tokenizer) -> None:
        """What must be done before there is an engine.

        Args:
            stateful: Gets what checkpoints of the phase must know, if it has a reference.
            tokenizer: Of the session.
        """
        if self._kind is not None:
            stateful.register("reference", self._origin)
        if self._kind == "memory" and self._section.trainable.lora is None:
            self._frozen = build_frozen_skeleton(self._configuration, self._phase_idx, tokenizer)

    def build(
        self,
        engine: Engine,
        data: PhaseData,
        *,
        step: int,
        start: PhaseStart | None,
        find_start: Callable[[], PhaseStart | None],
    ) -> Reference:
        """Builds it, once the phase's state is loaded. **Ranks:** all.

        Args:
            engine: Of the phase.
            data: Of the phase.
            step: Where it goes on.
            start: What it begins with; None: it goes on within.
            find_start: Looks for what it began with.

        Raises:
            DataError: What it began with is gone, or is something else.
        """
        if self._kind is None:
            return NoReference()
        if start is not None:
            self._origin.note(start, self._world)
        if self._kind == "precomputed":
            return self._stored(data, step)
        if self._frozen is None:
            return BaseReference(engine)
        return self._filled(engine, self._frozen, start or self._require_start(find_start()))

    def build_for_trial(self, engine: Engine, data: PhaseData) -> Reference:
        """Builds one as large and as slow, whose numbers do not matter. **Ranks:** all."""
        if self._kind is None:
            return NoReference()
        if self._kind == "precomputed":
            stored = StoredReference(self._files(data), self._world.device)
            stored.fill({side: torch.zeros(sum(data.num_pairs(side)), 2) for side in SIDES})
            return stored
        return self._filled(engine, self._frozen, None) if self._frozen else BaseReference(engine)

    def _stored(self, data: PhaseData, step: int) -> Reference:
        name, reference = self._section.name, StoredReference(self._files(data), self._world.device)
        is_there = reference.load()
        self._world.require_agreement(f"the reference of {name}", is_there)
        if not is_there and step > 0:
            raise DataError(
                f"{name} goes on at step {step}, but the log-probabilities of its reference are "
                f"not in {self._folder}, or are of other sequences. They are of the weights that "
                "it began with, which are trained by now, so they cannot be measured again. "
                "Restore the folder from a copy; or put data.sequence_length and "
                "evaluate.sequence_length back, if they were changed; or set "
                "objective_arguments.reference to memory, for which those weights are read again "
                f"(--accept-change 'phases[{self._phase_idx}].objective_arguments')."
            )
        return reference

    def _files(self, data: PhaseData) -> ReferenceFiles:
        phase = self._section
        # Without its adapters a model is another one.
        adapters = (phase.trainable.lora is not None, phase.inherit.lora)
        return ReferenceFiles(
            folder=self._folder,
            fingerprints={
                side: fingerprint_of(data.pairs_fingerprint(side), self._origin.weights, adapters)
                for side in SIDES
            },
            num_pairs={side: data.num_pairs(side) for side in SIDES},
            fence=self._fence,
        )

    def _require_start(self, start: PhaseStart | None) -> PhaseStart:
        if start is None:
            raise DataError(
                f"{self._section.name} is held against the weights that it began with, but it "
                "began with fresh ones, which are not kept. Name weights in inherit.weights."
            )
        self._origin.require_same(start, self._world)
        return start

    def _filled(
        self, engine: Engine, frozen: torch.nn.Module, start: PhaseStart | None
    ) -> Reference:
        if start is None:
            give_memory(frozen)  # of a trial, where any number will do
            frozen.to(self._world.device)
        else:
            start.fill_module(frozen, self._world.device)
        if self._section.engine.compile:
            compile_module(frozen)
        return FrozenReference(freeze(frozen, engine.settings))
