"""A checkpoint's manifest: it is written last, and makes the checkpoint a checkpoint. No torch."""

from __future__ import annotations

import errno
import json
import re
import stat
from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import xxhash

from phaseline.errors import (
    CheckpointError,
    CheckpointFormatError,
    CheckpointUnreachableError,
)
from phaseline.session.committed import CommittedLines
from phaseline.session.layout import PhaseLayout
from phaseline.session.stored import (
    Count,
    PlainName,
    StoredFileError,
    UnixTime,
    check,
    parse_object,
    read_file,
)

MANIFEST_NAME = "manifest.json"
ASIDE = ".aside-"
"""How the name of a folder begins that is not published yet."""

FORMAT = 3
_BEFORE_END = "-trained"
_NAME = re.compile(rf"step-(?P<step>\d{{8}})(?:{_BEFORE_END})?\.a(?P<attempt>\d{{4,9}})", re.ASCII)
_IN_SESSION = re.compile(r"(?P<phase>[^/]+)/run-(?P<run>\d{1,9})/(checkpoints|final)", re.ASCII)
_BLOCK_BYTES = 1 << 22
_REMEDY = "Use another one."
# Of these the file is no cause; a disk that does not give a file back says EIO.
_UNREACHABLE = frozenset(
    {errno.EACCES, errno.EPERM, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE}
)


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and xxh3-128 of one file of a checkpoint.

    Attributes:
        size: In bytes.
        hash: Of its contents, hexadecimal.
        shared: The name of the copy that the file is a link to, where checkpoints share one;
            None: the file is this checkpoint's alone.
    """

    size: Count
    hash: str
    shared: PlainName | None = None


@dataclass(frozen=True)
class Parent:
    """A checkpoint that a phase began from.

    Attributes:
        phase: Name of its phase.
        run: Which run of that phase, from 1.
        digest: Its manifest's `identity`.
    """

    phase: PlainName
    run: Count
    digest: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint is and holds.

    Attributes:
        phase: Name of the phase.
        run: Which run of the phase, from 1.
        parents: The checkpoints that the phase began from: of the phase before it, and of the one
            that its weights are of.
        decisions: Numbers of the session's decisions that the phase was trained under.
        phase_step: Optimizer steps of the phase that are done.
        global_step: Optimizer steps of the session that are done.
        clock: Pieces of work of the session that are done, of which an optimizer step is one.
        tokens: Tokens that the session has consumed.
        final: Whether the phase is finished with it.
        attempt: The attempt that wrote it.
        world_size: Ranks that wrote it.
        engine: The engine's name, as `zero1`.
        session: Identity of the session that it belongs to.
        config_fingerprint: Fingerprint of the resolved configuration.
        committed: Per attempt, the lines of its metrics that this state stands on.
        data: Per source of the phase, a digest of the prepared data that it was trained on.
        files: Every other file of the folder, by name.
        created: Unix time, seconds.
        validation: What a validation at this very step measured, by name; empty without one.
        weights_only: Whether the optimizer's state was left out.
        reduced_from: The digest of the whole checkpoint that it was left out of; None: this is
            the whole one.
    """

    phase: PlainName
    run: Count
    parents: tuple[Parent, ...]
    decisions: tuple[Count, ...]
    phase_step: Count
    global_step: Count
    clock: Count
    tokens: Count
    final: bool
    attempt: Count
    world_size: Count
    engine: str
    session: str
    config_fingerprint: str
    committed: tuple[CommittedLines, ...]
    data: dict[str, str]
    files: dict[PlainName, FileRecord]
    created: UnixTime
    validation: dict[str, float] = field(default_factory=dict)
    weights_only: bool = False
    reduced_from: str | None = None

    def with_files(self, files: dict[str, FileRecord], *, created: float) -> Manifest:
        """The same, with what is known once everything is written."""
        return replace(self, files=files, created=created)

    def of_weights(self, files: dict[str, FileRecord], *, attempt: int, created: float) -> Manifest:
        """The same without the optimizer's state, as an attempt publishes it."""
        return replace(
            self,
            files=files,
            attempt=attempt,
            created=created,
            weights_only=True,
            reduced_from=self.identity,
        )

    @property
    def identity(self) -> str:
        """Names the state for good: it stays when the state is reduced to its weights."""
        return self.reduced_from or _digest({"format": FORMAT, **asdict(self)})

    def to_bytes(self) -> bytes:
        """The file's contents; every file that it names must be on the disk before it is."""
        content = {"format": FORMAT, **asdict(self)}
        content = {**content, "digest": _digest(content)}
        return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Reads a folder's manifest, without looking at the other files.

        Raises:
            CheckpointFormatError: It is what was written, by a version of another format.
            CheckpointError: There is none, or it is not what was written.
        """
        path = folder / MANIFEST_NAME
        try:
            content = parse_object(read_file(path, remedy=_REMEDY), path, remedy=_REMEDY)
            digest = content.pop("digest")
            found_format = content.pop("format")
        except FileNotFoundError:
            raise CheckpointError(
                f"{folder} has no {MANIFEST_NAME}: it was never completed, or has lost it. "
                "Use another one."
            ) from None
        except StoredFileError as error:
            raise CheckpointError(str(error)) from error
        except (OSError, KeyError) as error:
            _require_reachable(path, error)
            raise CheckpointError(f"{path} cannot be read: {error}. {_REMEDY}") from error
        if digest != _digest({"format": found_format, **content}):
            raise CheckpointError(f"{path} was changed after it was written. Use another one.")
        if found_format != FORMAT:
            raise CheckpointFormatError(
                f"{path} has format {found_format!r}; this version reads {FORMAT}. "
                "Use the version that wrote it.",
                session=str(content.get("session")),
            )
        try:
            manifest = check(json.dumps(content).encode(), cls, path, remedy=_REMEDY)
        except StoredFileError as error:
            # Its digest is right, so no accident made it: nothing is done about it unasked.
            raise CheckpointFormatError(str(error), session=str(content.get("session"))) from error
        manifest.require_place(folder)
        return manifest

    def require_place(self, folder: Path) -> None:
        """Raises if a checkpoint lies where another one's name says something else of it.

        Outside of sessions, and under a name that is none of a checkpoint's, it may lie anywhere.
        """
        named = parse_name(folder.name)
        is_other = named is not None and named != (self.phase_step, self.attempt)
        match = _IN_SESSION.fullmatch("/".join(folder.parts[-4:-1]))
        if match is not None:
            is_other |= (match["phase"], int(match["run"])) != (self.phase, self.run)
        if is_other:
            raise CheckpointError(
                f"{folder} holds step {self.phase_step} of {self.phase}, saved by attempt "
                f"{self.attempt}: it was renamed, or put into another phase's folder. Move it back "
                "to where it was, or use another one."
            )


def hash_file(path: Path) -> FileRecord:
    """Reads a file once and returns its size and hash."""
    digest = xxhash.xxh3_128()
    size = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return FileRecord(size, digest.hexdigest())


def verify(folder: Path, *, hashes: bool = True, only: Container[str] | None = None) -> Manifest:
    """Returns a folder's manifest after checking the files that it names.

    Args:
        folder: The checkpoint.
        hashes: Whether contents are read; without it only names and sizes are checked.
        only: Names of the files that are checked; None: all are.

    Raises:
        CheckpointError: Naming the file and what is wrong with it.
        CheckpointUnreachableError: It cannot be looked at just now.
    """
    manifest = Manifest.load(folder)
    for name, record in manifest.files.items():
        if only is not None and name not in only:
            continue
        path = folder / name
        size = _size(path)
        if size != record.size:
            raise CheckpointError(
                f"{path} has {size} bytes where {record.size} were written. Use another checkpoint."
            )
        if hashes and _hash_or_none(path) != record:
            raise CheckpointError(
                f"{path} does not have the contents that were written. Use another checkpoint."
            )
    return manifest


def _size(path: Path) -> int:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is no file any more. Use another checkpoint.")
        return status.st_size
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing. Use another checkpoint.") from None
    except OSError as error:
        _require_reachable(path, error)
        raise CheckpointError(f"{path} cannot be read: {error}. Use another checkpoint.") from error


def _hash_or_none(path: Path) -> FileRecord | None:
    """A file's record, or None where the disk does not give its contents back."""
    try:
        return hash_file(path)
    except OSError as error:
        _require_reachable(path, error)
        return None


def _require_reachable(path: Path, error: Exception) -> None:
    """Raises if it is the way to a file that fails, not the file.

    Raises:
        CheckpointUnreachableError: A damaged checkpoint would be put aside and an older one
            taken, which costs steps; a server that is away comes back.
    """
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        raise CheckpointUnreachableError(
            f"{path} cannot be read: {error}. Nothing was put aside. Give this user the right to "
            "read it, or wait until the file system answers, and start again."
        ) from error


def checkpoint_name(step: int, attempt: int, *, before_end: bool = False) -> str:
    """Folder name of a checkpoint: fenced by the attempt that wrote it.

    Args:
        step: Optimizer steps of the phase that are done.
        attempt: Who writes it.
        before_end: Whether it is of the last step, saved before the phase's last validation. Its
            name sorts before that of the phase's end, which the same attempt may still write.
    """
    return f"step-{step:08d}{_BEFORE_END if before_end else ''}.a{attempt:04d}"


def is_before_end(name: str) -> bool:
    """Whether a checkpoint's name is one of `checkpoint_name` with `before_end`."""
    return _BEFORE_END in name


def parse_name(name: str) -> tuple[int, int] | None:
    """Returns a folder name's (step, attempt), or None if it names no checkpoint."""
    match = _NAME.fullmatch(name)
    return (int(match["step"]), int(match["attempt"])) if match else None


def list_published(folder: Path) -> list[Path]:
    """Checkpoint folders that have a manifest, oldest first by (step, attempt). Nothing is read."""
    if not folder.is_dir():
        return []
    named: Iterable[tuple[tuple[int, int] | None, Path]] = (
        (parse_name(path.name), path) for path in folder.iterdir()
    )
    found = [(key, path) for key, path in named if key and (path / MANIFEST_NAME).is_file()]
    return [path for _, path in sorted(found)]


def list_headless(folder: Path) -> list[Path]:
    """Folders with a checkpoint's name that hold something, but no file of a manifest; by name."""
    if not folder.is_dir():
        return []
    named = [path for path in folder.iterdir() if parse_name(path.name) and path.is_dir()]
    return sorted(p for p in named if not (p / MANIFEST_NAME).is_file() and any(p.iterdir()))


def list_kept(phase: PhaseLayout) -> list[Path]:
    """Everything published of a phase, oldest first by (step, attempt); of equals a whole one last."""
    found = [*list_published(phase.final_dir), *list_published(phase.checkpoints_dir)]
    return sorted(found, key=lambda path: parse_name(path.name) or (0, 0))


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(text.encode())
