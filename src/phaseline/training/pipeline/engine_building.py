"""From the configuration to the engine of one phase, with the weights that it goes on from."""

from __future__ import annotations

from functools import partial

import torch

from phaseline.config.model_head import model_head
from phaseline.config.sections import PhaseSection
from phaseline.data.tokenizer import Tokenizer
from phaseline.distributed.engines import Engine, EngineSettings, build_engine
from phaseline.distributed.seeding import position_seed, seed_all
from phaseline.distributed.world import World
from phaseline.models.activation_checkpointing import checkpoint_activations
from phaseline.models.build import build_model
from phaseline.models.compilation import compile_module
from phaseline.models.linear_loss import install_linear_loss
from phaseline.models.optimizers import build_optimizer
from phaseline.models.skeleton import build_without_memory, give_memory
from phaseline.models.trainable import prepare_trainable
from phaseline.training.pipeline.configuration_builder import TrainingConfiguration
from phaseline.training.pipeline.phase_start import PhaseStart
from phaseline.training.pipeline.resume_point import ResumePoint


def build_phase_engine(
    configuration: TrainingConfiguration,
    world: World,
    phase_idx: int,
    tokenizer: Tokenizer,
    point: ResumePoint | None,
    start: PhaseStart | None = None,
) -> Engine:
    """Builds a phase's model and engine. **Ranks:** all.

    Args:
        configuration: The run's configuration.
        world: The started world.
        phase_idx: Which phase.
        tokenizer: Of the session.
        point: What the session goes on from. A checkpoint of this very phase is left to the
            caller to load.
        start: The weights that the phase begins with, if it takes any.
    """
    section = configuration.config.phases[phase_idx]
    settings = engine_settings(configuration, phase_idx)
    within_phase = point is not None and point.manifest.phase == section.name
    takes = start is not None and not start.is_trial
    # Values that come from files, or from the main rank, are never made here.
    filled = within_phase or takes
    if settings.partitions_weights:
        holds_values = world.is_main and not filled
    else:
        # A model of one's own may look at its parameters while it is built.
        holds_values = not filled or configuration.config.model.factory is not None
    build = partial(_build_module, configuration, phase_idx, tokenizer)
    module = build() if holds_values else build_without_memory(build)
    if not settings.partitions_weights:
        give_memory(module)
    if start is not None:
        start.require_fit(module)
    optimizer = build_optimizer(module, section.optimizer, device=_stepping_device(section, world))
    engine = build_engine(module, optimizer, settings, world)
    if start is not None and takes:
        start.fill(engine)
    if section.engine.compile:
        compile_module(engine.module)
    return engine


def build_frozen_skeleton(
    configuration: TrainingConfiguration, phase_idx: int, tokenizer: Tokenizer
) -> torch.nn.Module:
    """A second model of a phase, whose parameters have no values. **Ranks:** any.

    It must be built before the phase's engine: while one of ZeRO-3 lives, transformers would
    divide whatever model is built over the ranks.
    """
    return build_without_memory(partial(_build_bare, configuration, phase_idx, tokenizer))


def engine_settings(configuration: TrainingConfiguration, phase_idx: int) -> EngineSettings:
    """What a phase's engine is built for."""
    section = configuration.config.phases[phase_idx]
    return EngineSettings(
        kind=section.engine.kind,
        zero_stage=section.engine.zero_stage,
        micro_batch_size=section.batch.micro_size,
        accumulation_steps=configuration.layouts[phase_idx].accumulation_steps,
        clip_norm=section.optimizer.clip_norm,
        precision=section.engine.precision,
        offload=section.engine.offload,
        leaf_modules=section.engine.leaf_modules,
        unused_parameters=section.engine.unused_parameters,
        deepspeed=section.engine.deepspeed,
    )


def _build_module(
    configuration: TrainingConfiguration, phase_idx: int, tokenizer: Tokenizer
) -> torch.nn.Module:
    section, path = configuration.config.phases[phase_idx], f"phases[{phase_idx}]"
    module = _build_bare(configuration, phase_idx, tokenizer)
    prepare_trainable(module, section.trainable, path=f"{path}.trainable")
    if section.engine.activation_checkpointing:
        checkpoint_activations(module, path=f"{path}.engine.activation_checkpointing")
    return module


def _build_bare(
    configuration: TrainingConfiguration, phase_idx: int, tokenizer: Tokenizer
) -> torch.nn.Module:
    """The model as its section describes it, with what the phase asks of its loss."""
    config = configuration.config
    # The same on every rank, and for the same phase in every image.
    seed_all(position_seed(config.session.seed, phase_idx), torch.device("cpu"))
    module = build_model(
        config.model,
        vocab_size=tokenizer.vocab_size,
        special_ids={"eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id},
        head=model_head(config, config.phases[phase_idx].objective),
    )
    if config.phases[phase_idx].engine.linear_cross_entropy:
        path = f"phases[{phase_idx}].engine.linear_cross_entropy"
        install_linear_loss(module, path=path)
    return module


def _stepping_device(section: PhaseSection, world: World) -> torch.device:
    """Where the optimizer's tensors will live."""
    return torch.device("cpu") if section.engine.offload == "optimizer" else world.device
