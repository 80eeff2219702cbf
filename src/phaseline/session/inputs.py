"""What a session keeps of what it was started with: tokenizer, model configuration, folder.

So what it trained can be used, and trained further, when the folders that it began from have
moved or are gone, and from any folder. Written by the lease holder, aside and at once. What is
read is held against its recorded hashes, and never over a link that leads out.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from phaseline.config.places import Places
from phaseline.errors import UnreachableFileError
from phaseline.session.files import fsync_file, fsync_folder, write_json
from phaseline.session.layout import AttemptLayout, SessionLayout
from phaseline.session.stored import Count, StoredFileError, read_file, read_stored

TOKENIZER: Final = "tokenizer"
MODEL: Final = "model"
_RECORD: Final = "inputs.json"
_NAMES: Final = (
    f"{TOKENIZER}/tokenizer.json",
    f"{TOKENIZER}/tokenizer_config.json",
    f"{TOKENIZER}/special_tokens_map.json",
    f"{TOKENIZER}/chat_template.jinja",
    f"{MODEL}/config.json",
    f"{MODEL}/generation_config.json",
)
"""All that may lie here, below the folder."""
_MAX_BYTES: Final = 1 << 28
"""Largest file of these that is read, 256 MiB."""
_REMEDY: Final = "Restore it from a copy, or remove the folder `inputs`: the next start writes it."


@dataclass(frozen=True)
class KeptFile:
    """A file that is kept.

    Attributes:
        size: Bytes.
        hash: blake2b of 16 bytes, in hexadecimal.
    """

    size: Count
    hash: str


@dataclass(frozen=True, kw_only=True)
class SessionInputs:
    """What was kept, and of what it was made.

    Attributes:
        started_in: The folder that the session was started in: where its relative paths begin.
        session: The session's directory from there on; None if it lay elsewhere.
        tokenizer: Fingerprint of the tokenizer.
        tokenizer_of: Its section of the configuration, as JSON text.
        model_of: What `model.pretrained` said; None if the configuration describes the model.
        model_revision: What `model.revision` said.
        paths: Paths as they were written that were there then, so that they are no names on the
            hub.
        renamed: Absolute paths at which something was found later, each with what the session
            calls it.
        sources: Fingerprints of data sources by `source_key`, those that paths lead to.
        files: What is kept, by its path below the folder.
    """

    started_in: str
    session: str | None
    tokenizer: str
    tokenizer_of: str
    model_of: str | None
    model_revision: str | None
    paths: tuple[str, ...]
    renamed: dict[str, str]
    sources: dict[str, str]
    files: dict[str, KeptFile]


def load_inputs(layout: SessionLayout) -> SessionInputs | None:
    """What a session keeps; None if it keeps nothing that is whole.

    Nothing is missed then as long as what the session began from is where it was.

    Raises:
        UnreachableFileError: It cannot be read just now.
    """
    path = layout.inputs_dir / _RECORD
    try:
        record = read_stored(_inside(layout, path), SessionInputs, remedy=_REMEDY)
    except StoredFileError:
        return None
    except OSError as error:
        UnreachableFileError.require_lasting(error, path)
        return None
    return record if set(record.files) <= set(_NAMES) else None


def require_kept(layout: SessionLayout, inputs: SessionInputs, part: str) -> Path:
    """The folder of one part, every file of which holds what was written.

    Args:
        layout: The session.
        inputs: What it keeps.
        part: `TOKENIZER` or `MODEL`.

    Raises:
        StoredFileError: A file is gone, damaged, or led to over a link that leads out.
        UnreachableFileError: One cannot be read just now.
    """
    for name, file in inputs.files.items():
        if not name.startswith(f"{part}/"):
            continue
        path = _inside(layout, layout.inputs_dir / name)
        try:
            data = read_file(path, remedy=_REMEDY, max_bytes=_MAX_BYTES)
        except OSError as error:
            UnreachableFileError.require_lasting(error, path)
            raise StoredFileError(f"{path} is missing: {error.strerror}. {_REMEDY}") from error
        if len(data) != file.size or _hash(data) != file.hash:
            raise StoredFileError(f"{path} does not hold what was written. {_REMEDY}")
    return layout.inputs_dir / part


def is_whole(layout: SessionLayout, inputs: SessionInputs) -> bool:
    """Whether every file is there and holds what was written."""
    try:
        for part in (TOKENIZER, MODEL):
            require_kept(layout, inputs, part)
    except StoredFileError:
        return False
    return True


def hash_of(path: Path) -> str:
    """Names the content of a small file; empty if it cannot be read.

    Raises:
        UnreachableFileError: It cannot be read just now.
    """
    try:
        return _hash(read_file(path, remedy="", max_bytes=_MAX_BYTES))
    except (OSError, StoredFileError) as error:
        UnreachableFileError.require_lasting(error, path)
        return ""


def keep_inputs(
    layout: SessionLayout, write: Callable[[Path], None], describe: Callable[..., SessionInputs]
) -> SessionInputs:
    """Puts what a session keeps in place of what it kept before. **Ranks:** main.

    Args:
        layout: The session, whose lease this process holds.
        write: Writes the parts' files into the folder that it is given.
        describe: Makes the record, given `files`.
    """
    aside = layout.root / f".{layout.inputs_dir.name}-{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        write(aside)
        record = describe(files=_files_in(aside))
        write_json(aside / _RECORD, asdict(record))
        _put_in_place(aside, layout.inputs_dir)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return record


def remember_moved(
    layout: SessionLayout, inputs: SessionInputs, moved: Mapping[str, str]
) -> SessionInputs:
    """Records where something was found that had moved. **Ranks:** main."""
    renamed = {**inputs.renamed, **{place: name for name, place in moved.items()}}
    if renamed == inputs.renamed:
        return inputs
    record = replace(inputs, renamed=renamed)
    write_json(layout.inputs_dir / _RECORD, asdict(record))
    return record


def places_of(layout: SessionLayout, moved: Mapping[str, str] | None = None) -> Places:
    """Where paths of a session's configuration lead.

    Args:
        layout: The session; it need not exist yet.
        moved: Paths that lie elsewhere now, with the same contents.
    """
    inputs = load_inputs(layout)
    if inputs is None:
        return Places(moved=dict(moved or {}))
    model, tokenizer = (_folder_of(layout, inputs, part) for part in (MODEL, TOKENIZER))
    return Places(
        folders=tuple(_folders(layout, inputs)),
        moved=dict(moved or {}),
        known=frozenset(inputs.paths),
        renamed=inputs.renamed,
        kept_model={(inputs.model_of, inputs.model_revision): model} if model else {},
        kept_tokenizer={inputs.tokenizer_of: tokenizer} if tokenizer else {},
    )


@dataclass(frozen=True)
class _Moved:
    """What an attempt's record of moved paths holds."""

    moved: dict[str, str]


def write_moved(attempt: AttemptLayout, moved: Mapping[str, str]) -> None:
    """Records which paths an attempt found elsewhere, for its later images."""
    if moved:
        write_json(attempt.moved_file, {"moved": dict(moved)})


def read_moved(attempt: AttemptLayout) -> Mapping[str, str]:
    """Reads what `write_moved` wrote; nothing if nothing had moved.

    Raises:
        StoredFileError: The file is damaged.
    """
    remedy = "Start the session again: every start looks anew."
    try:
        return read_stored(attempt.moved_file, _Moved, remedy=remedy).moved
    except FileNotFoundError:
        return {}


def session_places(directory: Path) -> Places:
    """The same of a session's directory."""
    return places_of(SessionLayout(directory))


def session_from(folder: Path, layout: SessionLayout) -> str | None:
    """A session's directory as a path below a folder; None if it lies elsewhere."""
    root = layout.root.resolve()
    return str(root.relative_to(folder)) if root.is_relative_to(folder) else None


def _folders(layout: SessionLayout, inputs: SessionInputs) -> list[Path]:
    """The folder that the session was started in: as it lies to the session now, then as it was.

    A project that was moved or copied as a whole finds its own files.
    """
    found = [Path(inputs.started_in)]
    if inputs.session:
        root, depth = layout.root.resolve(), len(Path(inputs.session).parts)
        if root.parts[-depth:] == Path(inputs.session).parts:
            found.insert(0, Path(*root.parts[:-depth]))
    return [folder for folder in dict.fromkeys(found) if folder.is_dir()]


def _folder_of(layout: SessionLayout, inputs: SessionInputs, part: str) -> Path | None:
    """The folder of a part that is kept and whole."""
    if not any(name.startswith(f"{part}/") for name in inputs.files):
        return None
    try:
        return require_kept(layout, inputs, part)
    except StoredFileError:
        return None


def _inside(layout: SessionLayout, path: Path) -> Path:
    """The same path, if no link leads it out of the session's directory."""
    try:
        is_inside = path.resolve().is_relative_to(layout.root.resolve())
    except (OSError, RuntimeError):
        is_inside = False
    if not is_inside:
        raise StoredFileError(f"{path} leads out of the session's directory. {_REMEDY}")
    return path


def _files_in(folder: Path) -> dict[str, KeptFile]:
    files = {}
    for name in _NAMES:
        if (folder / name).is_file():
            data = (folder / name).read_bytes()
            files[name] = KeptFile(len(data), _hash(data))
            fsync_file(folder / name)
    for part in (TOKENIZER, MODEL):
        if (folder / part).is_dir():
            fsync_folder(folder / part)
    return files


def _put_in_place(aside: Path, folder: Path) -> None:
    old = aside.with_name(f"{aside.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    aside.rename(folder)
    fsync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
