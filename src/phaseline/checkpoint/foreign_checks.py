"""The rules that weights from outside can be taken, as far as files say. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from phaseline.checkpoint.foreign import CONFIG_FILE, find_weights, read_model_config
from phaseline.checkpoint.manifest import Manifest, list_kept
from phaseline.checkpoint.tensor_files import UnusableWeightsError
from phaseline.config.checks.finding import Finding, Place
from phaseline.config.checks.model import sequences_beyond
from phaseline.config.cross_checks import PhaseRule
from phaseline.config.hub import (
    HubModelError,
    find_cached,
    is_hub_name,
    is_offline,
    require_cached,
)
from phaseline.config.inheritance import (
    WORDS_FOR_WEIGHTS,
    kept_model,
    outside_weights,
    pretrained_weights,
    teacher_of,
    teacher_phase,
)
from phaseline.config.model_section import HUB_PREFIX
from phaseline.config.places import place_of
from phaseline.config.sections import Config
from phaseline.config.tree import Loc
from phaseline.errors import CheckpointError
from phaseline.session.layout import SessionLayout

_ARCHITECTURE = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "vocab_size",
)
"""What must be the same. Some of it shows in no shape: heads of another number fit as well."""

_DESCRIBE = (
    "Name a Hugging Face folder, or describe the model by model.config and name the weights in "
    "inherit.weights."
)


def weights_can_be_read(session_dir: Path | None, *, hashes: bool = False) -> list[PhaseRule]:
    """Builds the rules about everything that a phase takes from outside.

    Args:
        session_dir: The session directory; None: `<session.root>/<session.name>`.
        hashes: Whether checkpoints are held against their hashes, which reads all of them.
    """
    return [
        inherited_weights_can_be_read(session_dir, hashes=hashes),
        teacher_can_be_read(session_dir, hashes=hashes),
    ]


def inherited_weights_can_be_read(session_dir: Path | None, *, hashes: bool = False) -> PhaseRule:
    """Builds the rule.

    Args:
        session_dir: The session directory; None: `<session.root>/<session.name>`.
        hashes: Whether checkpoints are held against their hashes, which reads all of them.
    """

    def rule(place: Place) -> Iterator[Finding]:
        model = _Described(place.config)
        if place.idx == 0:
            yield from model.problems()
        if place.config.model.pretrained is not None:
            yield from sequences_beyond(place, model.values, model.words)
        text = outside_weights(place.config, place.idx)
        if text is None or _has_begun(place, session_dir) or _is_still_to_come(text):
            return
        is_pretrained = text == pretrained_weights(place.config.model)
        loc = ("model", "pretrained") if is_pretrained else place.loc("inherit", "weights")
        try:
            weights = find_weights(text, hashes=hashes)
        except UnusableWeightsError as error:
            if not (is_pretrained and place.idx == 0 and model.fault is not None):
                yield Finding(loc, f"is {_shown(text)!r}, which {error.problem}", error.fix)
            return
        yield from _other_architecture(text, weights.model, model, loc)

    return rule


def teacher_can_be_read(session_dir: Path | None, *, hashes: bool = False) -> PhaseRule:
    """Builds the rule. A teacher is read at every start, until its phase is finished.

    Args:
        session_dir: The session directory; None: `<session.root>/<session.name>`.
        hashes: Whether checkpoints are held against their hashes, which reads all of them.
    """

    def rule(place: Place) -> Iterator[Finding]:
        teacher = teacher_of(place.phase)
        if teacher is None or teacher in WORDS_FOR_WEIGHTS or teacher_phase(teacher) is not None:
            return
        if _is_still_to_come(teacher) or _is_finished(place, session_dir):
            return
        loc = place.loc("objective_arguments", "teacher")
        try:
            weights = find_weights(teacher, hashes=hashes, words=())
            if weights.checkpoint is None:
                _require_architecture(weights.path, "Name a Hugging Face folder.")
        except UnusableWeightsError as error:
            yield Finding(loc, f"is {teacher!r}, which {error.problem}", error.fix)
            return
        there, here = (
            values.get("vocab_size") for values in (weights.model, place.config.model.config or {})
        )
        if there is not None and here is not None and there != here:
            yield Finding(
                loc,
                f"is {teacher!r}, which predicts {there} tokens, but model.config says {here}",
                f"Set model.config.vocab_size to {there}, or take another teacher.",
            )

    return rule


class _Described:
    """What the session file says of the architecture, by itself or by the folder that it names."""

    def __init__(self, config: Config) -> None:
        self.values: Mapping[str, Any] = config.model.config or {}
        self.words = "model.config"
        self.fault: UnusableWeightsError | None = None
        self._pretrained = text = pretrained_weights(config.model)
        kept = kept_model(config.model)
        if text is None or (kept is None and _is_still_to_come(text)):
            return
        self.words = "model.pretrained"
        try:
            folder = kept or (require_cached(text) if is_hub_name(text) else place_of(text))
            self.values = _require_architecture(folder)
        except HubModelError as error:
            self.fault = UnusableWeightsError(error.problem, error.fix)
        except UnusableWeightsError as error:
            self.fault = error

    def problems(self) -> Iterator[Finding]:
        """Why the model cannot be built, if it cannot."""
        if self.fault is not None and self._pretrained is not None:
            yield Finding(
                ("model", "pretrained"),
                f"is {_shown(self._pretrained)!r}, which {self.fault.problem}",
                self.fault.fix,
            )


def _require_architecture(folder: Path, fix: str = _DESCRIBE) -> Mapping[str, Any]:
    values = read_model_config(folder) if folder.is_dir() else {}
    if not isinstance(values.get("model_type"), str):
        raise UnusableWeightsError(
            f"has no {CONFIG_FILE} with a model_type, so that its architecture is not known",
            fix,
        )
    return values


def _other_architecture(
    text: str, theirs: Mapping[str, Any], model: _Described, loc: Loc
) -> Iterator[Finding]:
    for key in _ARCHITECTURE:
        if key not in model.values or key not in theirs or model.values[key] == theirs[key]:
            continue
        if key == "vocab_size" and _is_larger(model.values[key], theirs[key]):
            continue  # embeddings grow
        yield Finding(
            loc,
            f"is {text!r}, whose model has {key} {theirs[key]}, but {model.words} says "
            f"{model.values[key]}",
            f"Set {model.words}.{key} to {theirs[key]}, or take other weights."
            if model.words == "model.config"
            else "Take other weights.",
        )


def _is_larger(here: object, there: object) -> bool:
    """Whether both are numbers, which nobody has said yet, and the first is the larger."""
    return isinstance(here, int) and isinstance(there, int) and here > there


def _is_still_to_come(text: str) -> bool:
    """Whether it is fetched from the hub when the session starts."""
    try:
        return is_hub_name(text) and not is_offline() and find_cached(text) is None
    except HubModelError:
        return False


def _shown(text: str) -> str:
    return text.removeprefix(HUB_PREFIX)


def _has_begun(place: Place, session_dir: Path | None) -> bool:
    """Whether the phase has a checkpoint of its own, so that no weights are taken any more."""
    return bool(_kept(place, session_dir))


def _is_finished(place: Place, session_dir: Path | None) -> bool:
    """Whether the phase has its last checkpoint."""
    for folder in _kept(place, session_dir):
        try:
            if Manifest.load(folder).final:
                return True
        except CheckpointError:
            continue
    return False


def _kept(place: Place, session_dir: Path | None) -> list[Path]:
    session = place.config.session
    layout = SessionLayout(session_dir or session.directory)
    return list_kept(layout.phase(place.phase.name))
