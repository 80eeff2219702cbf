"""A phase that starts from weights of another session, or of another tool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from phaseline.checkpoint.foreign import ForeignWeights, find_weights
from phaseline.checkpoint.foreign_reading import fill_engine, match_names, open_weights
from phaseline.checkpoint.reader import CheckpointReader
from phaseline.checkpoint.tensor_files import UnusableWeightsError
from phaseline.data.tokenizer import TOKENIZER_FILE, Tokenizer
from phaseline.distributed.engines import Engine
from phaseline.distributed.world import World
from phaseline.errors import ConfigurationError, Fault, PhaselineError
from phaseline.training.pipeline.configuration_builder import TrainingConfiguration
from phaseline.training.pipeline.resume_point import ResumePoint

# Of a tokenizer, what says which token has which number. Its chat template may be another one.
_NUMBERS = "vocabulary"


class ForeignStart:
    """The weights that one phase takes from outside."""

    def __init__(
        self,
        configuration: TrainingConfiguration,
        phase_idx: int,
        weights: ForeignWeights,
        tokenizer: Tokenizer,
        *,
        is_trial: bool,
    ) -> None:
        """Takes what was found.

        Args:
            configuration: The run's configuration.
            phase_idx: The phase.
            weights: What lies at the path.
            tokenizer: Of the session.
            is_trial: Whether they are only held against the model.
        """
        self.is_trial = is_trial
        self._configuration = configuration
        self._phase_idx = phase_idx
        self._weights = weights
        self._tokenizer = tokenizer
        self._names: dict[str, str] = {}

    def require_fit(self, module: torch.nn.Module) -> None:
        """Raises unless every parameter and buffer is there in its shape. **Ranks:** all.

        Raises:
            ConfigurationError: Naming what does not fit.
        """
        with self._blaming():
            self._require_same_tokenizer()
            with open_weights(self._weights) as reader:
                self._names = match_names(reader, module)

    def fill(self, engine: Engine) -> None:
        """Gives an engine the weights; `require_fit` came before. **Ranks:** all."""
        with self._blaming(), open_weights(self._weights) as reader:
            fill_engine(reader, self._names, engine)

    def facts(self) -> dict[str, Any]:
        """What was taken, for the record. Reads every file once."""
        return {
            "phase": self._configuration.config.phases[self._phase_idx].name,
            "kind": self._weights.kind,
            "path": str(self._weights.path),
            "fingerprint": self._weights.fingerprint(),
            "num_tensors": len(self._names),
            "tokenizer": self._tokenizer_there(),
        }

    def notes(self) -> Iterator[str]:
        """What a person should know."""
        weights = self._weights
        yield f"weights taken from {weights.path} ({weights.kind}, {len(self._names)} tensors)"
        if self._tokenizer_there() == "other":
            yield (
                f"{weights.path} has a tokenizer of its own, which numbers tokens in another way "
                "than this session's: its embeddings stand for other tokens here"
            )

    def _tokenizer_there(self) -> str:
        """Whether a tokenizer beside the weights is this session's: same, other or unknown."""
        if self._weights.checkpoint is not None:
            return "same"  # else it was refused
        if not (self._weights.path / TOKENIZER_FILE).is_file():
            return "unknown"
        try:
            there = Tokenizer.load(self._weights.path).parts[_NUMBERS]
        except PhaselineError:
            return "other"
        return "same" if there == self._tokenizer.parts[_NUMBERS] else "other"

    def _require_same_tokenizer(self) -> None:
        if self._weights.checkpoint is None:
            return
        reader = CheckpointReader(self._weights.checkpoint)
        there = reader.state["stateful"].get("tokenizer", {}).get("parts", {})
        if there.get(_NUMBERS) != self._tokenizer.parts[_NUMBERS]:
            raise UnusableWeightsError(
                "was trained with another tokenizer, so that its embeddings stand for other tokens",
                "Write `tokenizer` as in that session.",
            )

    @contextmanager
    def _blaming(self) -> Iterator[None]:
        try:
            yield
        except UnusableWeightsError as error:
            raise _fault(self._configuration, self._phase_idx, error.problem, error.fix) from error


def find_foreign_start(
    configuration: TrainingConfiguration,
    world: World,
    phase_idx: int,
    tokenizer: Tokenizer,
    point: ResumePoint | None,
    *,
    is_trial: bool,
) -> ForeignStart | None:
    """Looks at the weights that a phase takes from outside. **Ranks:** all.

    Args:
        configuration: The run's configuration.
        world: The started world.
        phase_idx: The phase.
        tokenizer: Of the session.
        point: What the phase goes on from: a checkpoint of its own needs nothing from outside.
        is_trial: Whether they are only held against the model.

    Raises:
        ConfigurationError: A rank cannot take them, or ranks find different ones.
    """
    section = configuration.config.phases[phase_idx]
    text = section.inherit.foreign_weights
    if text is None or (point is not None and point.manifest.phase == section.name):
        return None
    weights, told = None, {"problem": "", "fix": "", "signature": ""}
    try:
        # One rank reads every byte of a checkpoint, and only when it is taken.
        weights = find_weights(text, hashes=world.is_main and not is_trial)
        told["signature"] = weights.signature
    except UnusableWeightsError as error:
        told |= {"problem": error.problem, "fix": error.fix}
    every = world.gather_objects(told)
    for rank, other in enumerate(every):
        if other["problem"]:
            problem = f"{other['problem']} (rank {rank})" if rank else other["problem"]
            raise _fault(configuration, phase_idx, problem, other["fix"])
    if any(other != every[0] for other in every):
        raise _fault(
            configuration,
            phase_idx,
            "is not the same on every rank's machine",
            "Put the same files there, or use a folder that all machines share.",
        )
    assert weights is not None
    return ForeignStart(configuration, phase_idx, weights, tokenizer, is_trial=is_trial)


def _fault(
    configuration: TrainingConfiguration, phase_idx: int, problem: str, fix: str
) -> PhaselineError:
    text = configuration.config.phases[phase_idx].inherit.weights
    loc = ("phases", phase_idx, "inherit", "weights")
    location = configuration.locate(loc)
    return ConfigurationError(
        [
            Fault(
                f"phases[{phase_idx}].inherit.weights",
                location,
                f"is {text!r}, which {problem}",
                fix,
            )
        ]
    )
