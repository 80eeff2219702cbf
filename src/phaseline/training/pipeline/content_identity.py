"""What a checkpoint remembers of the content that it was trained on, to be held against later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from phaseline.checkpoint.manifest import Manifest
from phaseline.checkpoint.reader import CheckpointReader
from phaseline.data.tokenizer import TOKENIZER_FILE, Tokenizer
from phaseline.errors import DataError, PhaselineError

# Of a tokenizer, what says which token has which number. Its chat template may be another one.
_NUMBERS = "vocabulary"


class ContentIdentity:
    """Refuses to go on with other content than a checkpoint was written with."""

    def __init__(
        self, what: str, fingerprint: str, phase: str, parts: Mapping[str, str] | None = None
    ) -> None:
        """Takes what it identifies.

        Args:
            what: data or tokenizer.
            fingerprint: Of its content, as it is now.
            phase: The phase at hand, for the message.
            parts: A fingerprint of each part, by what people call it, to say which one changed.
        """
        self.what = what
        self._fingerprint = fingerprint
        self._phase = phase
        self._parts = dict(parts or {})

    def state_dict(self) -> dict[str, Any]:
        """Returns the fingerprints."""
        return {"fingerprint": self._fingerprint, "parts": self._parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compares the fingerprint.

        Raises:
            DataError: The content changed since the checkpoint was written.
        """
        if state["fingerprint"] == self._fingerprint:
            return
        there = state.get("parts", {})
        changed = [name for name, part in self._parts.items() if there.get(name) != part]
        which = f": other {', '.join(changed)}" if changed else ": its source changed"
        raise DataError(
            f"The {self.what} of phase {self._phase} is not the one that the checkpoint was "
            f"written with (fingerprint {state['fingerprint']}, now {self._fingerprint}){which}. "
            "Put it back as it was, or start a new session."
        )


def require_same_contents(manifest: Manifest, contents: Mapping[str, str]) -> None:
    """Raises if data that were prepared anew are not those that a checkpoint was trained on.

    What they were made of has been compared before; this compares what became of it, which
    another version of a library may have made otherwise.

    Args:
        manifest: Of the checkpoint.
        contents: Of each source of the phase, a digest of what is prepared now.

    Raises:
        DataError: A source has other contents.
    """
    changed = [name for name, digest in contents.items() if manifest.data.get(name) != digest]
    if changed:
        raise DataError(
            f"The data of phase {manifest.phase} were prepared anew with another result: "
            f"{', '.join(changed)} does not hold what its checkpoints were trained on, though its "
            "source and settings are the same. Prepare them with the versions that are in the "
            "environment.json of the attempt that began the phase, or start a new session."
        )


def tokenizer_identity(tokenizer: Tokenizer, phase: str) -> ContentIdentity:
    """What checkpoints of a phase remember of the tokenizer."""
    return ContentIdentity("tokenizer", tokenizer.fingerprint, phase, tokenizer.parts)


def require_same_tokenizer(reader: CheckpointReader, tokenizer: Tokenizer, phase: str) -> None:
    """Raises if weights would be read with another tokenizer than they were trained with.

    Raises:
        DataError: The tokenizer changed since the checkpoint was written.
    """
    tokenizer_identity(tokenizer, phase).load_state_dict(reader.state["stateful"]["tokenizer"])


def numbers_tokens_alike(reader: CheckpointReader, tokenizer: Tokenizer) -> bool:
    """Whether a checkpoint was trained on the same tokens by the same numbers."""
    there = reader.state["stateful"].get("tokenizer", {}).get("parts", {})
    return bool(there.get(_NUMBERS) == tokenizer.parts[_NUMBERS])


def tokenizer_beside(path: Path, tokenizer: Tokenizer) -> Literal["same", "other", "unknown"]:
    """Whether a tokenizer that lies beside weights numbers tokens alike.

    Args:
        path: A Hugging Face folder.
        tokenizer: Of the session.
    """
    if not (path / TOKENIZER_FILE).is_file():
        return "unknown"
    try:
        there = Tokenizer.load(path).parts[_NUMBERS]
    except PhaselineError:
        return "other"
    return "same" if there == tokenizer.parts[_NUMBERS] else "other"
