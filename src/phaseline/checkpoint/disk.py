"""Every file operation of a save, in one place. No torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import xxhash

from phaseline.checkpoint.manifest import ASIDE, MANIFEST_NAME, FileRecord
from phaseline.session.files import fsync_folder, named

BLOCK_BYTES = 1 << 22


class Disk:
    """What a save asks of the file system.

    A test that wants to know what happens when one of these calls is the last puts another
    in its place.
    """

    def make_folder(self, path: Path) -> None:
        """Makes a folder in one that is there; one that is there itself is taken as it is."""
        path.mkdir(exist_ok=True)

    def open(self, path: Path) -> int:
        """Makes a new file and returns its descriptor."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Writes some of the data, and returns how much."""
        return os.write(descriptor, data)

    def flush(self, descriptor: int) -> None:
        """Makes what was written survive a power cut."""
        os.fsync(descriptor)

    def link(self, path: Path, other: Path) -> None:
        """Gives a file that is never written to again a second name, or else a copy."""
        try:
            os.link(path, other)
        except OSError:
            shutil.copyfile(path, other)

    def rename(self, path: Path, other: Path) -> None:
        """Makes a whole folder appear under its name at once."""
        path.rename(other)

    def flush_folder(self, path: Path) -> None:
        """Makes names that were added to a folder survive a power cut."""
        fsync_folder(path)

    def remove(self, folder: Path) -> None:
        """Removes a checkpoint: its name first, then its manifest, then the rest.

        So a folder that has a checkpoint's name is never one that was half removed, and what a
        kill leaves of it is cleared away with what was half written.
        """
        aside = folder
        if not folder.name.startswith(ASIDE):
            aside = folder.with_name(f"{ASIDE}{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)  # of a removal that failed
            self.rename(folder, aside)
        (aside / MANIFEST_NAME).unlink(missing_ok=True)
        shutil.rmtree(aside)

    def write_file(self, path: Path, parts: Iterable[memoryview]) -> FileRecord:
        """Writes a new file, flushes it, and returns its size and hash.

        Blocks are small enough that a training thread, which needs the interpreter between
        its kernels, never waits long for this one.
        """
        digest, size = xxhash.xxh3_128(), 0
        descriptor = self.open(path)
        try:
            with named(path):
                for part in parts:
                    rest = part
                    while rest:
                        written = self.write(descriptor, rest[:BLOCK_BYTES])
                        digest.update(rest[:written])
                        size += written
                        rest = rest[written:]
                self.flush(descriptor)
        finally:
            os.close(descriptor)
        return FileRecord(size, digest.hexdigest())
