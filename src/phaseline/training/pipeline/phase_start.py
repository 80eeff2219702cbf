"""What a phase starts from: weights of another phase, of another session, or of another tool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from phaseline.checkpoint.foreign import ForeignWeights, find_weights
from phaseline.checkpoint.fresh_head import fresh_names, view_with_fresh_head
from phaseline.checkpoint.grown_weights import grown_rows, view_grown
from phaseline.checkpoint.lora_weights import view_with_adapters, view_without_adapters
from phaseline.checkpoint.reader import CheckpointReader, load_optimizer
from phaseline.checkpoint.tensor_files import UnusableWeightsError
from phaseline.checkpoint.weight_matching import fill_engine, fill_module, match_names
from phaseline.checkpoint.weight_readers import WeightReader, open_weights
from phaseline.config.inheritance import lora_fate, outside_weights, pretrained_weights
from phaseline.config.known_objectives import head_of
from phaseline.data.tokenizer import Tokenizer
from phaseline.distributed.adapter_record import record_of, section_of
from phaseline.distributed.engines import Engine
from phaseline.distributed.seeding import position_seed
from phaseline.distributed.world import World
from phaseline.errors import ConfigurationError, Fault, PhaselineError
from phaseline.training.pipeline.configuration_builder import TrainingConfiguration
from phaseline.training.pipeline.content_identity import (
    numbers_tokens_alike,
    require_same_tokenizer,
    tokenizer_beside,
)


@dataclass(frozen=True, kw_only=True)
class StartContext:
    """What every start of a phase needs to know.

    Attributes:
        configuration: The run's configuration.
        world: The started world.
        phase_idx: The phase.
        tokenizer: Of the session.
        is_trial: Whether the phase is only tried: weights are then held against the model.
    """

    configuration: TrainingConfiguration
    world: World
    phase_idx: int
    tokenizer: Tokenizer
    is_trial: bool = False

    @property
    def phase(self) -> str:
        """The phase's name."""
        return self.configuration.config.phases[self.phase_idx].name

    def fault(self, problem: str, fix: str) -> PhaselineError:
        """What is wrong with the weights, at the setting that names them."""
        config = self.configuration.config
        text = config.phases[self.phase_idx].inherit.weights
        loc: tuple[str | int, ...] = ("phases", self.phase_idx, "inherit", "weights")
        path = f"phases[{self.phase_idx}].inherit.weights"
        pretrained = pretrained_weights(config.model)
        if pretrained is not None and outside_weights(config, self.phase_idx) == pretrained:
            loc, path, text = ("model", "pretrained"), "model.pretrained", str(pretrained)
        location = self.configuration.locate(loc)
        return ConfigurationError([Fault(path, location, f"is {text!r}, which {problem}", fix)])


class PhaseStart:
    """The weights that one phase takes, once, when it begins."""

    def __init__(self, context: StartContext, weights: ForeignWeights, *, is_ours: bool) -> None:
        """Takes what was found.

        Args:
            context: The phase.
            weights: What lies at the path.
            is_ours: Whether they are of another phase of this session.
        """
        self.is_trial = context.is_trial
        self._context = context
        self._weights = weights
        self._is_ours = is_ours
        self._names: dict[str, str] = {}
        self._grown: tuple[int, int] | None = None
        self._fresh: list[str] = []

    def require_fit(self, module: torch.nn.Module) -> None:
        """Raises unless every parameter and buffer is there in its shape. **Ranks:** all.

        Raises:
            ConfigurationError: Naming what does not fit.
            DataError: A phase of this session had another tokenizer.
        """
        with self._opened(module) as reader:
            self._require_same_tokenizer()
            self._names = match_names(reader, module)
            self._grown = grown_rows(reader)
            self._fresh = fresh_names(reader)
            if self._keeps_optimizer:
                self._require_optimizer_state(module)

    def fill(self, engine: Engine) -> None:
        """Gives an engine what it starts with; `require_fit` came before. **Ranks:** all."""
        with self._opened(engine.module) as reader:
            fill_engine(reader, self._names, engine)
        if self._keeps_optimizer:
            with CheckpointReader(self._checkpoint) as checkpoint:
                load_optimizer(checkpoint, engine)

    def fill_module(self, module: torch.nn.Module, device: torch.device) -> None:
        """Gives the same to a bare model, in fp32. **Ranks:** any.

        Args:
            module: The model without adapters; its parameters hold no memory.
            device: Where it is to live.
        """
        with self._opened(module) as reader:
            fill_module(reader, match_names(reader, module), module, device)

    @property
    def path(self) -> Path:
        """Where the weights are."""
        return self._weights.path

    @property
    def parent(self) -> Path | None:
        """The checkpoint that the weights are of, if it is one of this session."""
        return self._weights.checkpoint if self._is_ours else None

    @cached_property
    def fingerprint(self) -> str:
        """Names the weights. Reads every file of theirs, or a checkpoint's hashes, once."""
        return self._weights.fingerprint()

    def facts(self) -> dict[str, Any]:
        """What was taken, for the record."""
        return {
            "phase": self._context.phase,
            "kind": self._weights.kind,
            "path": str(self._weights.path),
            "fingerprint": self.fingerprint,
            "num_tensors": len(self._names),
            "tokenizer": self._tokenizer_there(),
        }

    def notes(self) -> Iterator[str]:
        """What a person should know."""
        weights = self._weights
        if not self._is_ours:  # else the phase's sentence has said it
            yield f"weights taken from {weights.path} ({weights.kind}, {len(self._names)} tensors)"
        if self._grown is not None:
            old, new = self._grown
            yield f"embeddings grown from {old} to {new} rows; the new ones are the mean of the old"
        if self._fresh:
            yield f"{', '.join(self._fresh)} drawn at random: the weights have another head, or none"
        if self._tokenizer_there() == "other":
            yield (
                f"{weights.path} has a tokenizer of its own, which numbers tokens in another way "
                "than this session's: its embeddings stand for other tokens here"
            )

    @property
    def _checkpoint(self) -> Path:
        assert self._weights.checkpoint is not None
        return self._weights.checkpoint

    @property
    def _keeps_optimizer(self) -> bool:
        phase = self._context.configuration.config.phases[self._context.phase_idx]
        return self._is_ours and phase.inherit.optimizer == "keep"

    @contextmanager
    def _opened(self, module: torch.nn.Module) -> Iterator[WeightReader]:
        """The weights by the names and in the shapes of a model."""
        rank = self._context.world.dp_rank if self._is_ours else 0
        try:
            with open_weights(self._weights, buffers_of=rank) as reader:
                yield self._as_of(module, reader)
        except UnusableWeightsError as error:
            raise self._context.fault(error.problem, error.fix) from error

    def _as_of(self, module: torch.nn.Module, reader: WeightReader) -> WeightReader:
        config, idx = self._context.configuration.config, self._context.phase_idx
        seed = position_seed(config.session.seed, idx)
        if head_of(config.phases[idx].objective) != "language":
            reader = view_with_fresh_head(reader, module, seed=seed)
        here, there = record_of(module), reader.adapters
        if there is None and config.phases[idx].inherit.lora is not None:
            raise UnusableWeightsError(
                "has no adapters, so that inherit.lora has no effect", "Remove inherit.lora."
            )
        fate = lora_fate(config.phases[idx].inherit, section_of(there), section_of(here))
        if there is not None and fate == "keep":
            if here is None or here.scale != there.scale or here.modules != there.modules:
                raise UnusableWeightsError(
                    "has adapters of another scale or of other layers than trainable.lora",
                    "Write trainable.lora as it was there, or set inherit.lora to merge.",
                )
            return view_grown(reader, module)
        plain = view_grown(view_without_adapters(reader, fate), module)
        return plain if here is None else view_with_adapters(plain, here, seed=seed)

    def _require_optimizer_state(self, module: torch.nn.Module) -> None:
        reader = CheckpointReader(self._checkpoint)
        if reader.manifest.weights_only:
            raise UnusableWeightsError(
                "was reduced to its weights when the phase behind it began, so that the state of "
                "the optimizer is gone",
                "Set inherit.optimizer to reset.",
            )
        new = [
            name
            for name, parameter in module.named_parameters()
            if parameter.requires_grad and not reader.parameters.get(name, {}).get("trainable")
        ]
        if new:
            raise UnusableWeightsError(
                f"was trained without {new[0]}, for which there is no state of the optimizer",
                "Set inherit.optimizer to reset, or train the same parameters.",
            )

    def _tokenizer_there(self) -> str:
        """Whether a tokenizer beside the weights is this session's: same, other or unknown."""
        if self._weights.checkpoint is not None:
            return "same"  # else it was refused
        return tokenizer_beside(self._weights.path, self._context.tokenizer)

    def _require_same_tokenizer(self) -> None:
        if self._weights.checkpoint is None:
            return
        reader = CheckpointReader(self._weights.checkpoint)
        if self._is_ours:
            require_same_tokenizer(reader, self._context.tokenizer, self._context.phase)
            return
        if not numbers_tokens_alike(reader, self._context.tokenizer):
            raise UnusableWeightsError(
                "was trained with another tokenizer, so that its embeddings stand for other tokens",
                "Write `tokenizer` as in that session.",
            )


def find_phase_start(context: StartContext, ours: Path | None) -> PhaseStart | None:
    """Looks at the weights that a phase starts from, if it takes any. **Ranks:** all.

    Args:
        context: The phase.
        ours: The checkpoint of another phase of this session that it starts from, on all ranks
            the same and verified; None: it takes none of those.

    Raises:
        ConfigurationError: A rank cannot take them, or ranks find different ones.
    """
    config, world = context.configuration.config, context.world
    text = str(ours) if ours is not None else outside_weights(config, context.phase_idx)
    if text is None:
        return None
    # One rank reads every byte of a checkpoint, and only when it is taken.
    hashes = world.is_main and not context.is_trial and not ours
    weights = find_on_all_ranks(text, world, context.fault, hashes=hashes)
    return PhaseStart(context, weights, is_ours=ours is not None)


def find_on_all_ranks(
    text: str, world: World, fault: Callable[[str, str], PhaselineError], *, hashes: bool
) -> ForeignWeights:
    """What lies at a path, which must be the same on every rank. **Ranks:** all.

    Args:
        text: As `find_weights` takes it.
        world: The started world.
        fault: Makes an error of what is wrong and how to mend it.
        hashes: Whether this rank holds a checkpoint's contents against their hashes.

    Raises:
        PhaselineError: As `fault` makes it: a rank cannot take them, or ranks find different ones.
    """
    weights, told = None, {"problem": "", "fix": "", "signature": ""}
    try:
        weights = find_weights(text, hashes=hashes)
        told["signature"] = weights.signature
    except UnusableWeightsError as error:
        told |= {"problem": error.problem, "fix": error.fix}
    every = world.gather_objects(told)
    for rank, other in enumerate(every):
        if other["problem"]:
            problem = f"{other['problem']} (rank {rank})" if rank else other["problem"]
            raise fault(problem, other["fix"])
    if any(other != every[0] for other in every):
        raise fault(
            "is not the same on every rank's machine",
            "Put the same files there, or use a folder that all machines share.",
        )
    assert weights is not None
    return weights
