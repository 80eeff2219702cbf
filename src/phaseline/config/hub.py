"""Models of the Hugging Face hub as folders of this machine. No torch."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

from phaseline.config.model_section import HUB_PREFIX
from phaseline.errors import HubOutageError, PhaselineError

_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[^@\s]+))?")
_WANTED = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json"),
    *("tokenizer*", "*.model", "vocab*", "merges.txt", "added_tokens.json"),
    *("special_tokens_map.json", "chat_template*"),
)
"""Files of a repository that are fetched: no pickles, and no weights of other frameworks."""

_WITHOUT_NETWORK = (
    "Fetch it where there is a network, as `hf download {name}`, and copy the folder here or set "
    "HF_HOME to a cache that has it"
)


_TRANSPORTS = ("httpcore", "httpx", "requests", "urllib3")
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers of a server that may be another one next time."""


def is_outage(error: BaseException) -> bool:
    """Whether it is the way to the hub that failed, or the hub's server; not what was asked for."""
    seen: BaseException | None = error
    while seen is not None and not is_offline():
        status = getattr(getattr(seen, "response", None), "status_code", None)
        if status is not None:
            return status in _BUSY
        is_transport = type(seen).__module__.split(".")[0] in _TRANSPORTS
        if is_transport or isinstance(seen, (ConnectionError, TimeoutError, socket.gaierror)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


class HubModelError(PhaselineError):
    """A model of the hub is not here.

    Attributes:
        problem: What was found, completing "TEXT ...".
        fix: What to do, a sentence.
    """

    def __init__(self, problem: str, fix: str) -> None:
        self.problem, self.fix = problem, fix
        super().__init__(f"The model cannot be taken: it {problem}. {fix}")


class HubModelOutageError(HubModelError, HubOutageError):
    """The hub cannot be asked for a model just now; another start may succeed."""


def is_hub_name(text: str) -> bool:
    """Whether a text means a model of the hub."""
    return text.startswith(HUB_PREFIX)


def is_offline() -> bool:
    """Whether the hub must not be asked (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def find_cached(text: str) -> Path | None:
    """The folder of a model that is in the cache with all its weights. No network.

    Args:
        text: As `hub:NAME` or `hub:NAME@REVISION`.

    Raises:
        HubModelError: The text is no such name.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    name, revision = _split(text)
    try:
        folder = Path(
            snapshot_download(
                name, revision=revision, allow_patterns=list(_WANTED), local_files_only=True
            )
        )
    except LocalEntryNotFoundError:
        return None
    return folder if _is_complete(folder) else None


def require_cached(text: str) -> Path:
    """The folder of a model that was fetched before. No network.

    Raises:
        HubModelError: It is not in the cache.
    """
    folder = find_cached(text)
    if folder is None:
        name, _ = _split(text)
        raise HubModelError(
            "is not whole in this machine's cache of the hub",
            f"{_WITHOUT_NETWORK.format(name=name)}.",
        )
    return folder


def fetch(text: str) -> Path:
    """Returns a model's folder, from the cache if it is there, else from the hub.

    Raises:
        HubModelError: The hub has no such model, does not give it, or cannot be reached.
    """
    cached = find_cached(text)
    if cached is not None:
        return cached
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, revision = _split(text)
    by_hand = f"{_WITHOUT_NETWORK.format(name=name)}."
    if is_offline():
        raise HubModelError("is not in the cache, and HF_HUB_OFFLINE forbids to fetch it", by_hand)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_WANTED)))
    except GatedRepoError as error:
        raise HubModelError(
            "is a model whose licence has to be accepted on the hub first",
            f"Accept it at https://huggingface.co/{name}, and log in with `hf auth login`.",
        ) from error
    except RevisionNotFoundError as error:
        raise HubModelError(
            f"is a model of the hub without the revision {revision}", "Correct the revision."
        ) from error
    except RepositoryNotFoundError as error:
        raise HubModelError(
            "is neither a folder here nor a model of the hub that you may read",
            "Correct the name, or log in with `hf auth login`.",
        ) from error
    except Exception as error:  # the library passes on whatever its transport raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        kind = HubModelOutageError if is_outage(error) else HubModelError
        raise kind(
            f"is no folder here, and the hub could not be asked for it ({reason.rstrip('.')})",
            by_hand,
        ) from error


def _split(text: str) -> tuple[str, str | None]:
    match = _NAME.fullmatch(text.removeprefix(HUB_PREFIX))
    if match is None:
        raise HubModelError(
            "is neither a folder here nor a name on the hub",
            "Write it as hub:ORGANISATION/NAME or hub:ORGANISATION/NAME@REVISION.",
        )
    return match["name"], match["revision"]


def _is_complete(folder: Path) -> bool:
    """A cache that was filled halfway has a folder too."""
    if not (folder / "config.json").is_file():
        return False
    if (folder / "model.safetensors").is_file():
        return True
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        return all((folder / name).is_file() for name in set(index["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False
