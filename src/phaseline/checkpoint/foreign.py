"""Weights that a phase takes from outside: what lies at a path, before any is read. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import xxhash

from phaseline.checkpoint.manifest import MANIFEST_NAME, Manifest, hash_file, verify
from phaseline.checkpoint.tensor_files import (
    StoredTensor,
    UnusableWeightsError,
    list_file,
    list_folder,
)
from phaseline.checkpoint.trust import list_inherited
from phaseline.config.hub import HubModelError, is_hub_name, require_cached
from phaseline.config.inheritance import WORDS_FOR_WEIGHTS
from phaseline.config.places import is_known, place_of
from phaseline.errors import (
    CheckpointError,
    CheckpointUnreachableError,
    PhaselineError,
    UnreachableFileError,
)
from phaseline.session.layout import SessionLayout
from phaseline.session.stored_config import load_stored_config

CONFIG_FILE = "config.json"
_FORMS = (
    "phase:NAME",
    "hub:NAME",
    "a Hugging Face folder",
    "a .safetensors file",
    "SESSION#PHASE or a checkpoint",
)


@dataclass(frozen=True, kw_only=True)
class ForeignWeights:
    """Weights at a path.

    Attributes:
        kind: What lies there, in words.
        path: Where, absolute.
        tensors: Of safetensors files: what they hold. Empty for a checkpoint.
        checkpoint: The checkpoint folder, if it is one.
        model: What its configuration says of the model, as transformers' config.json.
        signature: Equal on ranks that see the same, by names, shapes and sizes.
    """

    kind: str
    path: Path
    tensors: Mapping[str, StoredTensor] = field(default_factory=dict)
    checkpoint: Path | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    signature: str

    def fingerprint(self) -> str:
        """Names the content: reads every file, or for a checkpoint the hashes of its files.

        Those of the optimizer's state are left out, as they are from a finished phase.
        """
        if self.checkpoint is not None:
            # Not above: it brings torch, which a configuration is checked without.
            from phaseline.checkpoint.reader import is_optimizer_file

            records = Manifest.load(self.checkpoint).files
            hashes = {n: record.hash for n, record in records.items() if not is_optimizer_file(n)}
        else:
            files = {tensor.file for tensor in self.tensors.values()}
            hashes = {file.name: hash_file(file).hash for file in files}
        digest = xxhash.xxh3_128()
        for name, file_hash in sorted(hashes.items()):
            digest.update(f"{name} {file_hash}\n".encode())
        return digest.hexdigest()


def find_weights(
    text: str, *, hashes: bool = False, words: Sequence[str] = WORDS_FOR_WEIGHTS
) -> ForeignWeights:
    """Looks at what `inherit.weights` names, and reads no weight.

    Args:
        text: A Hugging Face folder, a .safetensors file, `SESSION#PHASE` or a checkpoint
            folder, relative to the working folder; or `hub:NAME`, which is looked for in the
            cache alone.
        hashes: Whether a checkpoint's contents are held against their hashes as well.
        words: What else the setting may say, for the message.

    Raises:
        UnusableWeightsError: There is nothing that can be taken over.
    """
    if is_hub_name(text):
        try:
            path, phase = require_cached(text), None
        except HubModelError as error:
            raise UnusableWeightsError(error.problem, error.fix) from error
    else:
        path, phase = _split(text)
    if not path.exists() and is_known(text):
        raise UnusableWeightsError(
            "does not exist any more, and its weights are still needed",
            "Put it back, or name the place where it lies now: the same contents are no change.",
        )
    if not path.exists():
        near = get_close_matches(text.lower(), words, n=1)
        fix = f"Did you mean {near[0]}?" if near else "Paths start at the folder you start in."
        allowed = ", ".join((*words, *_FORMS))
        raise UnusableWeightsError(f"does not exist; it must be {allowed}", fix)
    if (path / "session.json").is_file():
        return _of_session(path, phase, hashes=hashes)
    if phase is not None:
        raise UnusableWeightsError(
            f"names the phase {phase} of {path}, which is no session directory",
            "Name a session directory before the #, or leave the # out.",
        )
    if (path / MANIFEST_NAME).is_file():
        return _of_checkpoint(path, {}, hashes=hashes)
    if path.is_file() and (path.parent / MANIFEST_NAME).is_file():
        raise UnusableWeightsError(
            "is one rank's part of a checkpoint", f"Name its folder, {path.parent}."
        )
    if path.is_file():
        return _of_files("safetensors file", path, list_file(path), {})
    return _of_files("Hugging Face folder", path, list_folder(path), read_model_config(path))


def _split(text: str) -> tuple[Path, str | None]:
    whole = place_of(text)
    if "#" not in text or whole.exists():
        return whole, None
    head, _, phase = text.rpartition("#")
    return place_of(head), phase


def _of_files(
    kind: str, path: Path, tensors: Mapping[str, StoredTensor], model: Mapping[str, Any]
) -> ForeignWeights:
    if not tensors:
        raise UnusableWeightsError("holds no tensor", "Name weights of a model.")
    seen = [(name, t.dtype, t.shape, t.file.name, t.offset) for name, t in sorted(tensors.items())]
    return ForeignWeights(
        kind=kind, path=path.resolve(), tensors=tensors, model=model, signature=_digest(repr(seen))
    )


def _of_checkpoint(folder: Path, model: Mapping[str, Any], *, hashes: bool) -> ForeignWeights:
    try:
        manifest = verify(folder, hashes=hashes)
    except CheckpointUnreachableError:
        raise
    except CheckpointError as error:
        raise UnusableWeightsError(f"does not verify ({error})", "Name another one.") from error
    return ForeignWeights(
        kind=f"checkpoint of {manifest.phase} at step {manifest.phase_step}",
        path=folder.resolve(),
        checkpoint=folder.resolve(),
        model=model,
        signature=_digest((folder / MANIFEST_NAME).read_text(encoding="utf-8")),
    )


def _of_session(root: Path, phase: str | None, *, hashes: bool) -> ForeignWeights:
    layout = SessionLayout(root)
    saved: dict[str, list[Path]] = {}
    for folder in list_inherited(layout, max(layout.attempt_numbers(), default=0) + 1):
        saved.setdefault(folder.parents[2].name, []).append(folder)
    final = {name: _final_among(folders) for name, folders in saved.items()}
    finished = sorted(name for name, folder in final.items() if folder is not None)
    offer = (
        f"Write {root}#{finished[-1]}."
        if len(finished) == 1
        else f"Finished there: {', '.join(finished)}."
        if finished
        else "Let it finish a phase first."
    )
    if phase is None:
        raise UnusableWeightsError("is a session, which has several phases to start from", offer)
    chosen = final.get(phase)
    if chosen is None:
        state = "not finished" if phase in saved else "not among its phases that have begun"
        raise UnusableWeightsError(f"names the phase {phase}, which is {state}", offer)
    return _of_checkpoint(chosen, _model_of(layout), hashes=hashes)


def _final_among(folders: list[Path]) -> Path | None:
    """The last final checkpoint whose manifest can be read."""
    for folder in sorted(folders, key=lambda path: path.name, reverse=True):
        try:
            if Manifest.load(folder).final:
                return folder
        except CheckpointUnreachableError:
            raise
        except CheckpointError:
            continue
    return None


def _model_of(layout: SessionLayout) -> Mapping[str, Any]:
    """What a session says of its model; nothing if another version wrote it."""
    try:
        return load_stored_config(layout).model.config or {}
    except (OSError, PhaselineError):
        return {}


def read_model_config(folder: Path) -> Mapping[str, Any]:
    """What a folder's config.json says; nothing where there is none.

    Raises:
        UnusableWeightsError: The file cannot be read.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        UnreachableFileError.require_lasting(error, path)
        raise UnusableWeightsError(
            f"holds {CONFIG_FILE}, which cannot be read ({error})", "Get the file again."
        ) from error
    return content if isinstance(content, dict) else {}


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
