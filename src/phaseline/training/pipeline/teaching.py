"""The teacher of a phase that distils: found, held against the session, and filled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from phaseline.checkpoint.foreign import ForeignWeights
from phaseline.checkpoint.reader import CheckpointReader
from phaseline.checkpoint.tensor_files import UnusableWeightsError
from phaseline.config.inheritance import teacher_phase
from phaseline.config.model_section import ModelSection
from phaseline.config.places import current_places, looking_in
from phaseline.data.batch import Batch
from phaseline.distributed.engines import EngineSettings
from phaseline.distributed.seeding import position_seed, seed_all
from phaseline.errors import ConfigurationError, Fault, PhaselineError
from phaseline.models.build import build_model
from phaseline.models.skeleton import build_without_memory
from phaseline.objectives.distillation import Distillation
from phaseline.objectives.token_loss import run_model
from phaseline.session.inputs import places_of
from phaseline.session.layout import SessionLayout
from phaseline.session.stored_config import load_stored_config
from phaseline.training.phases.runtime import PhaseRuntime
from phaseline.training.pipeline.content_identity import (
    ContentIdentity,
    numbers_tokens_alike,
    tokenizer_beside,
)
from phaseline.training.pipeline.frozen_models import (
    FrozenModel,
    fill_frozen,
    fingerprint_of,
    freeze,
)
from phaseline.training.pipeline.phase_start import StartContext, find_on_all_ranks


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A filled teacher.

    Attributes:
        model: It, frozen, on the rank's device.
        kind: What it was found as, in words.
        path: Where it was found; empty for the fresh one of a trial.
        fingerprint: Of its weights.
    """

    model: FrozenModel
    kind: str
    path: str
    fingerprint: str

    def identity(self, phase: str) -> ContentIdentity:
        """What checkpoints of the phase remember of it."""
        return ContentIdentity("teacher", self.fingerprint, phase)

    def facts(self, phase: str) -> dict[str, Any]:
        """What was taken, for the record."""
        return {
            "phase": phase,
            "kind": self.kind,
            "path": self.path,
            "fingerprint": self.fingerprint,
        }


def load_teacher(
    context: StartContext, objective: Distillation, settings: EngineSettings, ours: Path | None
) -> Teacher:
    """Finds, checks and fills the teacher: a whole copy on every rank. **Ranks:** all.

    To be called before the engine is built: beside one of ZeRO-3, transformers divides every
    model that it builds over the ranks.

    Args:
        context: The phase.
        objective: Says where the weights are.
        settings: Of the student's engine.
        ours: The checkpoint of the phase of this session that is the teacher, verified and on
            all ranks the same. None: the teacher is from outside; or the phase is only tried,
            before that other one is trained, so that fresh weights stand in for it.

    Raises:
        ConfigurationError: A rank cannot take it, ranks find different ones, or it was trained
            on other tokens.
    """
    world, fault = context.world, partial(_fault, context, objective.teacher)
    weights = None
    if ours is not None or teacher_phase(objective.teacher) is None:
        text = objective.teacher if ours is None else str(ours)
        hashes = world.is_main and not context.is_trial and ours is None
        weights = find_on_all_ranks(text, world, fault, hashes=hashes)
    try:
        module = _fresh(context) if weights is None else _skeleton(context, weights)
        if weights is None:
            module.to(world.device)
        else:
            _require_same_tokens(context, weights)
            fill_frozen(weights, module, world.device)
    except UnusableWeightsError as error:
        raise fault(error.problem, error.fix) from error
    fingerprint = fingerprint_of(module)
    world.require_agreement("the teacher's weights", fingerprint)
    return Teacher(
        model=freeze(module, settings),
        kind="fresh weights" if weights is None else weights.kind,
        path="" if weights is None else str(weights.path),
        fingerprint=fingerprint,
    )


def require_same_vocabulary(runtime: PhaseRuntime, batch: Batch) -> None:
    """Raises unless teacher and student predict as many tokens. **Ranks:** all. One forward each.

    Args:
        runtime: Of a phase that distils.
        batch: Any rows, on the rank's device.

    Raises:
        ConfigurationError: They do not.
    """
    objective = runtime.objective
    assert isinstance(objective, Distillation)
    with torch.no_grad():
        there, here = (
            run_model(model, batch).shape[-1] for model in (objective.model, runtime.engine.model)
        )
    if there == here:
        return
    fault = Fault(
        f"phases[{runtime.phase_idx}].objective_arguments.teacher",
        "",
        f"is {objective.teacher!r}, which predicts {there} tokens, where the model of this session "
        f"predicts {here}: nothing says which of them are the same",
        "Take a teacher with this session's vocabulary, or the teacher's `tokenizer` and number of "
        "embeddings for the session.",
    )
    raise ConfigurationError([fault])


def _fault(context: StartContext, text: str, problem: str, fix: str) -> PhaselineError:
    loc = ("phases", context.phase_idx, "objective_arguments", "teacher")
    path = f"phases[{context.phase_idx}].objective_arguments.teacher"
    location = context.configuration.locate(loc)
    return ConfigurationError([Fault(path, location, f"is {text!r}, which {problem}", fix)])


def _fresh(context: StartContext) -> torch.nn.Module:
    """The session's own model with weights that nobody trained, alike on all ranks."""
    seed = context.configuration.config.session.seed
    seed_all(position_seed(seed, context.phase_idx), torch.device("cpu"))
    return _build(context, context.configuration.config.model)


def _skeleton(context: StartContext, weights: ForeignWeights) -> torch.nn.Module:
    """The teacher's own architecture; its parameters have no values."""
    model, places = context.configuration.config.model, current_places()
    if weights.checkpoint is not None:
        layout = SessionLayout(weights.checkpoint.parents[4])
        found = _model_of_session(layout, model)
        if found is not None:
            model, places = found, places_of(layout)
    elif weights.path.is_file():
        raise UnusableWeightsError(
            "is a single file, which does not say what model its weights are of",
            "Name the Hugging Face folder that it is from.",
        )
    else:
        model = ModelSection(pretrained=str(weights.path), attention=model.attention)
    build = partial(_build, context, model, is_folder=weights.checkpoint is None)
    with looking_in(places):
        return build_without_memory(build)


def _build(
    context: StartContext, model: ModelSection, *, is_folder: bool = False
) -> torch.nn.Module:
    tokenizer = context.tokenizer
    ids = {"eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    try:
        # A folder has as many embeddings as it says: those of a teacher do not grow.
        return build_model(
            model,
            vocab_size=1 if is_folder else tokenizer.vocab_size,
            special_ids={} if is_folder else ids,
        )
    except ConfigurationError as error:
        [fault] = error.faults
        raise UnusableWeightsError(f"cannot be built: {fault}", "Take another teacher.") from error


def _model_of_session(layout: SessionLayout, own: ModelSection) -> ModelSection | None:
    """The model of the session that a checkpoint lies in; None if it lies in none.

    Args:
        layout: Of the folder where that session would be.
        own: The model of the session at hand.
    """
    if not layout.config_file.is_file():
        return None
    try:
        model = load_stored_config(layout).model
    except PhaselineError as error:
        raise UnusableWeightsError(
            f"is of a session whose model is not known ({error})",
            "Export it there (`phaseline export`), and name that folder.",
        ) from error
    if model.factory is not None and model.factory != own.factory:
        # Whoever made that session would say what runs in this one.
        raise UnusableWeightsError(
            f"is of a session whose model is built by {model.factory}, code that this file does "
            "not name",
            "Take a teacher whose model this session's model.factory builds, or one of "
            "transformers.",
        )
    return model


def _require_same_tokens(context: StartContext, weights: ForeignWeights) -> None:
    """Raises if equal numbers mean other tokens. A folder without a tokenizer is believed."""
    if weights.checkpoint is not None:
        is_same = numbers_tokens_alike(CheckpointReader(weights.checkpoint), context.tokenizer)
    else:
        is_same = tokenizer_beside(weights.path, context.tokenizer) != "other"
    if not is_same:
        raise UnusableWeightsError(
            "was trained with another tokenizer, so that it predicts other tokens by the same "
            "numbers",
            "Write `tokenizer` as it was there, as `tokenizer: {pretrained: FOLDER}`.",
        )
