"""A phase of a session as somebody finds it later: its checkpoint, its model and its tokenizer.

Needs neither the world that it was trained in, nor a GPU, nor DeepSpeed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from phaseline.checkpoint.lora_weights import view_without_adapters
from phaseline.checkpoint.manifest import Manifest
from phaseline.checkpoint.reader import CheckpointReader
from phaseline.checkpoint.retention import Best
from phaseline.checkpoint.trust import list_inherited
from phaseline.checkpoint.weight_matching import fill_module, match_names
from phaseline.checkpoint.weight_readers import CheckpointWeights, WeightReader
from phaseline.config.model_head import model_head
from phaseline.config.places import Places, current_places, looking_in
from phaseline.config.plugins import names_are_untrusted
from phaseline.config.sections import Config, PhaseSection
from phaseline.data.cache import Cache, ReadOnlyCache
from phaseline.data.tokenizer import Tokenizer
from phaseline.data.tokenizer_building import build_tokenizer, section_text
from phaseline.distributed.seeding import position_seed, seed_all
from phaseline.errors import UsageError
from phaseline.models.build import build_model
from phaseline.models.skeleton import build_without_memory
from phaseline.session.identity import require_session
from phaseline.session.inputs import places_of
from phaseline.session.layout import SessionLayout
from phaseline.session.records import read_events
from phaseline.session.stored_config import load_stored_config
from phaseline.training.pipeline.content_identity import require_same_tokenizer
from phaseline.training.pipeline.phase_checkpoints import Wanted, best_by, choose


@dataclass(frozen=True, kw_only=True)
class TrainedPhase:
    """One checkpoint, and what it is of.

    Attributes:
        layout: The session.
        config: The session's configuration.
        phase: The phase's name.
        checkpoint: The checkpoint, verified.
        tokenizer: Of the session.
        places: Where paths of its configuration lead.
    """

    layout: SessionLayout
    config: Config
    phase: str
    checkpoint: Path
    tokenizer: Tokenizer
    places: Places

    @classmethod
    def find(
        cls,
        session_dir: Path,
        phase: str | None,
        *,
        step: int | None = None,
        best: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> TrainedPhase:
        """Finds a phase's checkpoint in a session directory.

        Args:
            session_dir: The session.
            phase: The phase; None: the last one that has begun.
            step: The step of the phase; None: its last.
            best: Whether the best by its `checkpoint.keep_best` is wanted.
            say: Told of each checkpoint that was left out because it is damaged.

        Raises:
            UsageError: There is no such session or phase.
            CheckpointError: There is no such checkpoint.
        """
        layout = require_session(session_dir)
        config = load_stored_config(layout)
        folders = list_inherited(layout, max(layout.attempt_numbers(), default=0) + 1)
        name = _choose_phase(config, folders, phase, layout)
        section = next(section for section in config.phases if section.name == name)
        wanted = Wanted(phase=name, step=step, best=_require_best(section) if best else None)
        return cls.at(layout, config, name, choose(wanted, folders, session=None, say=say))

    @classmethod
    def at(
        cls, layout: SessionLayout, config: Config, phase: str, checkpoint: Path
    ) -> TrainedPhase:
        """A checkpoint that was verified.

        Raises:
            DataError: The tokenizer is not the one that it was trained with.
        """
        places = places_of(layout, current_places().moved)
        kept = places.kept_tokenizer.get(section_text(config.tokenizer))
        if kept is not None:
            tokenizer = Tokenizer.load(kept)
        else:
            cache = Cache.configured(config.preparation)
            if names_are_untrusted():
                cache = ReadOnlyCache(cache.root)
            with looking_in(places):
                tokenizer = build_tokenizer(config.tokenizer, cache)
        require_same_tokenizer(CheckpointReader(checkpoint), tokenizer, phase)
        return cls(
            layout=layout,
            config=config,
            phase=phase,
            checkpoint=checkpoint,
            tokenizer=tokenizer,
            places=places,
        )

    @property
    def manifest(self) -> Manifest:
        """What the checkpoint says of itself."""
        return Manifest.load(self.checkpoint)

    @property
    def section(self) -> PhaseSection:
        """The phase's settings."""
        return next(section for section in self.config.phases if section.name == self.phase)

    def has_learnt_chats(self) -> bool:
        """Whether this phase, or one before it, was trained on chats."""
        names = [section.name for section in self.config.phases]
        until_now = names[: names.index(self.phase) + 1]
        return any(
            source["phase"] in until_now and source.get("shape") == "chats"
            for number in self.layout.attempt_numbers()
            for event in read_events(self.layout.attempt(number).events_file)
            if event.get("event") == "data_prepared"
            for source in event["sources"]
        )

    def build_skeleton(self) -> torch.nn.Module:
        """The bare model without adapters; its parameters have no values.

        What else its constructor draws at random is drawn as it was when the phase began.
        """
        phase_idx = self.config.phases.index(self.section)
        seed_all(position_seed(self.config.session.seed, phase_idx), torch.device("cpu"))
        build = partial(
            build_model,
            self.config.model,
            vocab_size=self.tokenizer.vocab_size,
            special_ids={
                "eos_token_id": self.tokenizer.eos_id,
                "pad_token_id": self.tokenizer.pad_id,
            },
            head=model_head(self.config, self.section.objective),
        )
        with looking_in(self.places):
            return build_without_memory(build)

    @contextmanager
    def open(self) -> Iterator[WeightReader]:
        """The weights of the model without adapters, those that it has merged into them."""
        with CheckpointWeights(self.checkpoint) as reader:
            yield view_without_adapters(reader, "merge")

    def load_model(self, device: torch.device) -> torch.nn.Module:
        """The bare model with its weights in fp32, in evaluation mode."""
        module = self.build_skeleton()
        with self.open() as reader:
            fill_module(reader, match_names(reader, module), module, device)
        return module.eval()


def _choose_phase(
    config: Config, folders: Sequence[Path], phase: str | None, layout: SessionLayout
) -> str:
    names = [section.name for section in config.phases]
    if phase is not None and phase not in names:
        raise UsageError(
            f"--phase is {phase!r}, but the session at {layout.root} has the phases "
            f"{', '.join(names)}. Name one of them."
        )
    begun = {folder.parents[2].name for folder in folders}
    if phase is None:
        phase = next((name for name in reversed(names) if name in begun), None)
    if phase is None or phase not in begun:
        what = "any phase" if phase is None else phase
        raise UsageError(
            f"The session at {layout.root} has no checkpoint of {what} yet. Let it train until the "
            "first one is saved; `phaseline status` shows where it stands."
        )
    return phase


def _require_best(section: PhaseSection) -> Best:
    best = best_by(section)
    if best is None:
        raise UsageError(
            f"--best has no meaning for {section.name}, whose checkpoint.keep_best is not set. "
            "Leave it out for the last checkpoint, or name a --step."
        )
    return best
