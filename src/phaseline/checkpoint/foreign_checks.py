"""The rule that weights from outside can be taken over, as far as files say. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from phaseline.checkpoint.foreign import find_weights
from phaseline.checkpoint.manifest import list_kept
from phaseline.checkpoint.tensor_files import UnusableWeightsError
from phaseline.config.checks.finding import Finding, Place
from phaseline.config.cross_checks import PhaseRule
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


def inherited_weights_can_be_read(session_dir: Path | None, *, hashes: bool = False) -> PhaseRule:
    """Builds the rule.

    Args:
        session_dir: The session directory; None: `<session.root>/<session.name>`.
        hashes: Whether checkpoints are held against their hashes, which reads all of them.
    """

    def rule(place: Place) -> Iterator[Finding]:
        text = place.phase.inherit.foreign_weights
        if text is None or _has_begun(place, session_dir):
            return
        loc = place.loc("inherit", "weights")
        try:
            weights = find_weights(text, hashes=hashes)
        except UnusableWeightsError as error:
            yield Finding(loc, f"is {text!r}, which {error.problem}", error.fix)
            return
        ours = place.config.model.config or {}
        for key in _ARCHITECTURE:
            if key in ours and key in weights.model and ours[key] != weights.model[key]:
                yield Finding(
                    loc,
                    f"is {text!r}, whose model has {key} {weights.model[key]}, but model.config "
                    f"says {ours[key]}",
                    f"Set model.config.{key} to {weights.model[key]}, or take other weights.",
                )

    return rule


def _has_begun(place: Place, session_dir: Path | None) -> bool:
    """Whether the phase has a checkpoint of its own, so that nothing is read from outside."""
    session = place.config.session
    layout = SessionLayout(session_dir or Path(session.root) / session.name)
    return bool(list_kept(layout.phase(place.phase.name)))
