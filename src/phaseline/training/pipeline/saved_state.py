"""What a session's newest checkpoint cannot go with, found before it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from phaseline.checkpoint.manifest import Manifest
from phaseline.checkpoint.trust import list_inherited
from phaseline.config.changes import Change
from phaseline.config.known_objectives import head_of
from phaseline.config.model_head import model_head
from phaseline.config.plugins import load_attribute
from phaseline.config.sections import Config, PhaseSection
from phaseline.config.tree import Loc
from phaseline.distributed.adapter_record import is_adapter, plain_name
from phaseline.errors import CheckpointError
from phaseline.session.layout import SessionLayout
from phaseline.session.stored import StoredFileError, parse_object, read_file

_LENGTHS = (("duration",), ("batch", "global_size"), ("data", "sequence_length"))
_SIZES = (
    "vocab_size",
    *("hidden_size", "intermediate_size", "num_hidden_layers"),
    *("n_embd", "n_inner", "n_layer"),
)
"""Of a model of transformers: what shows in the shapes of its parameters, whatever the model."""
_OTHER_HEAD = "its checkpoints are of a model that ends in another head"


@dataclass(frozen=True)
class SavedState:
    """The checkpoint that got furthest, by what its small files say.

    Attributes:
        folder: The checkpoint.
        manifest: What it is.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def newest(cls, layout: SessionLayout, phases: Sequence[str]) -> SavedState | None:
        """The newest checkpoint that the next attempt may adopt; None if there is none.

        Args:
            layout: The session.
            phases: Its phases, in order.
        """
        found: list[tuple[int, int, str, SavedState]] = []
        for folder in list_inherited(layout, max(layout.attempt_numbers(), default=0) + 1):
            try:
                manifest = Manifest.load(folder)
            except CheckpointError:
                continue
            if manifest.phase in phases:
                place = (phases.index(manifest.phase), manifest.phase_step, folder.name)
                found.append((*place, cls(folder, manifest)))
        return max(found, key=lambda entry: entry[:3])[3] if found else None

    @property
    def phase(self) -> str:
        """The phase that it is of."""
        return self.manifest.phase

    @property
    def is_final(self) -> bool:
        """Whether that phase is finished."""
        return self.manifest.final

    def objections(
        self, stored: Config, wanted: Config, changes: Sequence[Change], *, in_depth: bool
    ) -> dict[Loc, str]:
        """Why changes cannot be accepted, by their path, for those that cannot be.

        Args:
            stored: What the checkpoint was written with.
            wanted: What is to go on with it.
            changes: What differs.
            in_depth: Whether the model is built, and callbacks imported, to know.
        """
        found: dict[Loc, str] = {}
        locs = [change.loc for change in changes]
        in_model = [loc for loc in locs if loc[0] == "model"]
        if in_model:
            misfit = _other_size(stored, wanted)
            if not misfit and in_depth:
                misfit = self._misfit(wanted, self._objective(stored))
            found |= dict.fromkeys(in_model, misfit) if misfit else {}
        names = [phase.name for phase in wanted.phases]
        if self.is_final or self.phase not in names:
            return found
        idx = names.index(self.phase)
        for keys, remark in self._objections_in_phase(stored, wanted, idx, in_depth=in_depth):
            touched = [loc for loc in locs if loc[:2] == ("phases", idx) and _is_in(loc[2:], keys)]
            found |= dict.fromkeys(touched, remark)
        return found

    def _objections_in_phase(
        self, stored: Config, wanted: Config, idx: int, *, in_depth: bool
    ) -> Iterator[tuple[tuple[str, ...], str]]:
        """Sections of the phase that is under way, each with what speaks against its change."""
        phase = wanted.phases[idx]
        num_steps = _steps_of(phase)
        if num_steps is not None and num_steps < self.manifest.phase_step:
            remark = (
                f"the phase would have {num_steps} steps, and {self.manifest.phase_step} are done"
            )
            yield from ((keys, remark) for keys in _LENGTHS)
        thawed = self._thawed(phase)
        if thawed:
            remark = (
                f"it would train {thawed[0]}, for which the checkpoint has no state of the "
                "optimizer. Train it in a phase behind this one"
            )
            yield ("trainable",), remark
        lost = self._lost_callbacks(stored.phases[idx], phase, idx, in_depth=in_depth)
        if lost:
            yield ("callbacks",), lost
        if head_of(stored.phases[idx].objective) != head_of(phase.objective):
            yield ("objective",), _OTHER_HEAD

    def _thawed(self, phase: PhaseSection) -> list[str]:
        return [
            name
            for name, record in self._parameters().items()
            if not record.get("trainable", True) and phase.trainable.trains(plain_name(name))
        ]

    def _lost_callbacks(
        self, old: PhaseSection, new: PhaseSection, idx: int, *, in_depth: bool
    ) -> str:
        """What is wrong with other callbacks: each one's state has to be in the checkpoint."""
        saved = _mapping(self._json("state.json").get("stateful"))
        for name in set(old.callbacks) - set(new.callbacks):
            if f"callback {name}" in saved:
                return f"the checkpoint holds a state of {name}, which nothing would take"
        for name in set(new.callbacks) - set(old.callbacks) if in_depth else ():
            member = load_attribute(name, path=f"phases[{idx}].callbacks")
            if hasattr(member, "state_dict"):
                return f"{name} keeps a state, which the checkpoint does not hold"
        return ""

    def _objective(self, stored: Config) -> str:
        """That of the checkpoint's phase, which decides what its model ends in."""
        objectives = {phase.name: phase.objective for phase in stored.phases}
        return objectives.get(self.phase, "")

    def _misfit(self, wanted: Config, objective: str) -> str:
        """What keeps the saved weights from going into the model that is wanted now."""
        saved = {
            plain_name(name): tuple(record["shape"])
            for name, record in self._parameters().items()
            if not is_adapter(name) and isinstance(record.get("shape"), list)
        }
        if not saved:
            return ""
        shapes = _shapes_of(wanted, objective)
        lines = [f"{name} would be missing" for name in shapes.keys() - saved.keys()]
        lines += [f"{name} would be too many" for name in saved.keys() - shapes.keys()]
        lines += [
            f"{name} is {list(saved[name])} there and would be {list(shapes[name])}"
            for name in sorted(saved.keys() & shapes.keys())
            if saved[name] != shapes[name]
        ]
        return f"its checkpoints are of another model ({lines[0]})" if lines else ""

    def _parameters(self) -> dict[str, dict[str, Any]]:
        """What the checkpoint says of each parameter. Not yet held against its hash."""
        records = _mapping(self._json("model.json").get("parameters"))
        return {name: record for name, record in records.items() if isinstance(record, dict)}

    def _json(self, name: str) -> dict[str, Any]:
        """A small file of the checkpoint; nothing where it cannot be read."""
        try:
            path = self.folder / name
            return parse_object(read_file(path, remedy=""), path, remedy="")
        except (OSError, StoredFileError):
            return {}


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _other_size(stored: Config, wanted: Config) -> str:
    """What can be told of a model of other shapes without building it."""
    before, now = stored.model.config or {}, wanted.model.config or {}
    for key in _SIZES:
        if key in before and key in now and before[key] != now[key]:
            return (
                f"its checkpoints are of another model ({key} is {before[key]} there and would be "
                f"{now[key]})"
            )
    return ""


def _steps_of(phase: PhaseSection) -> int | None:
    """Steps of a phase; None where only its data can tell."""
    if phase.duration.unit == "epochs":
        return None
    return phase.duration.steps(tokens_per_step=phase.tokens_per_step, steps_per_epoch=1.0)


def _shapes_of(config: Config, objective: str) -> dict[str, tuple[int, ...]]:
    """Parameters of the model that is configured; none needs memory."""
    from phaseline.data.cache import Cache
    from phaseline.data.tokenizer_building import build_tokenizer
    from phaseline.models.build import build_model
    from phaseline.models.skeleton import build_without_memory

    tokenizer = build_tokenizer(config.tokenizer, Cache.configured(config.preparation))
    special_ids = {"eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    build = partial(
        build_model,
        config.model,
        vocab_size=tokenizer.vocab_size,
        special_ids=special_ids,
        head=model_head(config, objective),
    )
    module = build_without_memory(build)
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def _is_in(keys: Loc, section: tuple[str, ...]) -> bool:
    return keys[: len(section)] == section
