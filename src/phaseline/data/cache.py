"""The cache of prepared data: entries that are complete or absent, whatever is killed when.

An entry is made in a folder aside and renamed into place together with a manifest of its
files. A lock lets one process work while the others of the machine wait; if the file system
has no working locks, two may work at once and the first to finish wins.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import xxhash

from phaseline.config.plugins import UntrustedCodeError
from phaseline.data.block_hashes import ENTRY_MANIFEST, hashes_file, is_intact, write_hashes
from phaseline.errors import DataError, UnreachableFileError
from phaseline.session.files import fsync_file, fsync_folder
from phaseline.session.stored import Count, PlainName, StoredFileError, read_stored

if TYPE_CHECKING:
    from phaseline.config.data_section import PreparationSection

MANIFEST = ENTRY_MANIFEST
_SMALL_BYTES = 1 << 20
"""Files up to this size are read and compared whenever an entry is looked for, 1 MiB."""

# How file systems say that they have no locks.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)

Build = Callable[[Path], None]
Report = Callable[[str], None]
Proceed = Callable[[], None]
"""Called between pieces of work; raises when the work shall be given up."""

_LOCK_POLL_S = 0.1


def always_proceed() -> None:
    """For work that nobody gives up."""


@dataclass(frozen=True)
class _CachedFile:
    """A file of an entry: its size in bytes, and a digest of the hashes of its blocks."""

    size: Count
    blocks: str


@dataclass(frozen=True)
class _Manifest:
    """What an entry's manifest holds."""

    files: dict[PlainName, _CachedFile]


class Cache:
    """A folder `<root>/<kind>/<fingerprint>` per entry."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def of_user(cls) -> Cache:
        """The cache in `$PHASELINE_CACHE`, else in `~/.cache/phaseline`."""
        configured = os.environ.get("PHASELINE_CACHE")
        return cls(Path(configured) if configured else Path.home() / ".cache" / "phaseline")

    @classmethod
    def configured(cls, section: PreparationSection) -> Cache:
        """The cache that a session names, else the user's."""
        return cls.of_user() if section.cache is None else cls(Path(section.cache).expanduser())

    def find(self, kind: str, fingerprint: str) -> Path | None:
        """The entry's folder if it is there with every file at its full size."""
        entry = self.root / kind / fingerprint
        return entry if _is_complete(entry) else None

    def obtain(
        self,
        kind: str,
        fingerprint: str,
        build: Build,
        report: Report,
        proceed: Proceed = always_proceed,
    ) -> Path:
        """Returns the entry's folder, building it first if it is absent or damaged.

        Args:
            kind: Sort of entry, a folder name.
            fingerprint: Names the content, a folder name.
            build: Writes the entry's files into the empty folder that it is given.
            report: Told when this process waits for another one.
            proceed: Raises when this process shall wait no longer.
        """
        found = self.find(kind, fingerprint)
        if found is not None:
            return found
        with self._lock(kind, fingerprint, report, proceed) as is_alone:
            # Another process may have built it while this one waited.
            found = self.find(kind, fingerprint)
            return found or self._build(self.root / kind / fingerprint, build, is_alone)

    def remove_damaged(self, kind: str, fingerprint: str) -> Path | None:
        """Reads all of an entry, and takes it away if it is not what was written.

        Returns:
            The file that differs; None if there is no entry, or all of it is intact.
        """
        entry = self.root / kind / fingerprint
        for name in _read_manifest(entry) or ():
            if not is_intact(entry / name):
                self.remove(entry)
                return entry / name
        return None

    def entries(self, kind: str, pattern: str) -> list[Path]:
        """The complete entries of a kind whose fingerprints match a pattern, sorted."""
        found = (self.root / kind).glob(pattern)
        return sorted(entry for entry in found if _is_complete(entry))

    def remove(self, entry: Path) -> None:
        """Takes an entry away, at once for whoever looks; readers keep the files they hold."""
        aside = entry.with_name(f".{entry.name}-{socket.gethostname()}-{secrets.token_hex(4)}")
        try:
            entry.rename(aside)
        except FileNotFoundError:
            return  # another process did it
        shutil.rmtree(aside, ignore_errors=True)

    def _build(self, entry: Path, build: Build, is_alone: bool) -> Path:
        prefix = f".{entry.name}-{socket.gethostname()}-"
        if is_alone:
            # Nobody else of this host is at work here, so these were left by the dead.
            for left_over in entry.parent.glob(f"{prefix}*"):
                shutil.rmtree(left_over, ignore_errors=True)
        aside = entry.parent / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"
        aside.mkdir()
        try:
            build(aside)
            _write_manifest(aside)
            _publish(aside, entry)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return entry

    @contextmanager
    def _lock(
        self, kind: str, fingerprint: str, report: Report, proceed: Proceed
    ) -> Iterator[bool]:
        """Holds the entry's lock; gives False where the file system has none."""
        with self._open_lock_file(kind, fingerprint) as file:
            is_alone = True
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(f"waiting for another process that prepares {kind} {fingerprint}")
                _wait_for_lock(file, proceed)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                is_alone = False
            # The kernel lets go of the lock when the file is closed, also by a kill.
            yield is_alone

    def _open_lock_file(self, kind: str, fingerprint: str) -> IO[str]:
        folder = self.root / kind
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # It stays for ever: removing it would let two processes hold two files of one name.
            return (folder / f"{fingerprint}.lock").open("a", encoding="utf-8")
        except OSError as error:
            UnreachableFileError.require_lasting(
                error, f"the cache of prepared data in {self.root}"
            )
            raise DataError(
                f"the cache of prepared data in {self.root} cannot be written: {error}. Set the "
                "environment variable PHASELINE_CACHE, or preparation.cache of the session, to a "
                "folder that can be."
            ) from error


class ReadOnlyCache(Cache):
    """A cache that somebody else named: what is there is used, and nothing is made."""

    def obtain(
        self,
        kind: str,
        fingerprint: str,
        build: Build,  # noqa: ARG002 - nothing is built
        report: Report,  # noqa: ARG002
        proceed: Proceed = always_proceed,  # noqa: ARG002
    ) -> Path:
        """Returns the entry's folder.

        Raises:
            UntrustedCodeError: It is not there, so it would have to be made.
        """
        found = self.find(kind, fingerprint)
        if found is None:
            raise UntrustedCodeError(
                f"{kind} {fingerprint} is not in the cache {self.root}, and would be made there of "
                "what the session names, and not you. If you started the session, or have read "
                "its config.yaml, add --trust-code."
            )
        return found


def _wait_for_lock(file: IO[str], proceed: Proceed) -> None:
    """Takes the lock once it is free. A call that blocks could not be given up."""
    while True:
        proceed()
        time.sleep(_LOCK_POLL_S)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return


def _publish(aside: Path, entry: Path) -> None:
    if os.path.lexists(entry) and not _is_complete(entry):
        # A damaged entry is moved away first: readers that hold its files keep them.
        damaged = entry.rename(aside.with_name(aside.name + "-damaged"))
        if damaged.is_symlink() or damaged.is_file():
            damaged.unlink()
        else:
            shutil.rmtree(damaged, ignore_errors=True)
    try:
        aside.rename(entry)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not _is_complete(entry):
            raise
    fsync_folder(entry.parent)


def _write_manifest(folder: Path) -> None:
    files = {
        path.name: _CachedFile(path.stat().st_size, write_hashes(path))
        for path in sorted(folder.iterdir())
    }
    for name in files:
        fsync_file(folder / name)
        fsync_file(hashes_file(folder / name))
    text = json.dumps({"files": {name: asdict(file) for name, file in files.items()}}, indent=1)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    fsync_file(folder / MANIFEST)
    fsync_folder(folder)


def _read_manifest(entry: Path) -> dict[str, _CachedFile] | None:
    """The files of an entry; None if it is not complete, or its manifest is not what was written."""
    try:
        return read_stored(entry / MANIFEST, _Manifest, remedy="").files
    except (OSError, StoredFileError):
        return None


def _is_complete(entry: Path) -> bool:
    """Whether every file is there at its size, with its hashes, and the small ones are intact."""
    files = _read_manifest(entry)
    if files is None:
        return False
    try:
        return all(
            _is_as_written(entry / name, file, reads_all=file.size <= _SMALL_BYTES)
            for name, file in files.items()
        )
    except OSError:
        return False


def _is_as_written(path: Path, file: _CachedFile, *, reads_all: bool) -> bool:
    if path.stat().st_size != file.size:
        return False
    if xxhash.xxh3_64_hexdigest(hashes_file(path).read_bytes()) != file.blocks:
        return False
    return not reads_all or is_intact(path)
