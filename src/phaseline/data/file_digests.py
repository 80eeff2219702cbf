"""Digests of file contents, remembered while a file's stamps stay the same.

Every start and every phase identifies its sources again; without a memory a corpus of many
gigabytes would be read each time.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from phaseline.config.places import located
from phaseline.data.cache import Cache
from phaseline.data.fingerprints import fingerprint_of
from phaseline.session.stored import StoredFileError, parse_object, read_file

if TYPE_CHECKING:
    from collections.abc import Sequence

# A file that changed so shortly before it was read may change again within the same tick of
# the clock that stamps it, so it is not remembered.
_SETTLED_AFTER_S = 2.0
_BLOCK_BYTES = 1 << 20


def digest_files(paths: Sequence[str], memory_folder: Path) -> list[str]:
    """Digests of the files' contents, in the order of the paths.

    Args:
        paths: The files.
        memory_folder: Where digests are remembered; losing it only costs time.
    """
    absolute = [str(Path(path).absolute()) for path in paths]
    memory = memory_folder / f"{fingerprint_of(absolute)}.json"
    known = _recall(memory)
    settled: dict[str, str] = {}
    digests = []
    for path in absolute:
        stamps, is_settled = _stamp(path)
        digest = known.get(f"{stamps} {path}") or _digest(path)
        if is_settled:
            settled[f"{stamps} {path}"] = digest
        digests.append(digest)
    if settled != known:
        _remember(memory, settled)
    return digests


def fingerprint_files(paths: Sequence[str]) -> str:
    """Names the contents of files, in order; the user's cache remembers their digests."""
    places = [located(path) for path in paths]
    return fingerprint_of(digest_files(places, Cache.of_user().root / "digests"))


def _stamp(path: str) -> tuple[str, bool]:
    """What changes along with the content, and whether a later change would show in it."""
    # Taken before the file is read: a change while it is read then shows at the next look.
    # The change time is among them because, other than the modification time, no program
    # that puts a file back can set it.
    found = Path(path).stat()
    stamps = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    age_s = time.time() - max(found.st_mtime, found.st_ctime)
    return "-".join(map(str, stamps)), age_s > _SETTLED_AFTER_S


def _digest(path: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _recall(memory: Path) -> dict[str, str]:
    try:
        recalled = parse_object(read_file(memory, remedy=""), memory, remedy="")
    except (OSError, StoredFileError):
        return {}
    # What is damaged is found out anew.
    return {name: digest for name, digest in recalled.items() if isinstance(digest, str)}


def _remember(memory: Path, digests: dict[str, str]) -> None:
    # A folder that cannot be written costs the time to read the files again, and no more.
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        aside = memory.with_suffix(f".{secrets.token_hex(4)}")
        aside.write_text(json.dumps(digests), encoding="utf-8")
        aside.replace(memory)
