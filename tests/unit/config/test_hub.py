"""Models of the hub, fetched from a small server of our own on this machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from huggingface_hub import constants

from phaseline.config import hub
from phaseline.config.hub import HubModelError, HubModelOutageError
from phaseline.errors import ExitCode

COMMIT = "a" * 40
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"a pickle",
}


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does, for one model `org/tiny` at its main branch."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        name = path.rpartition("/")[2]
        if path in (
            "/api/models/org/tiny/revision/main",
            f"/api/models/org/tiny/revision/{COMMIT}",
        ):
            siblings = [{"rfilename": file} for file in FILES]
            body = json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": siblings}).encode()
        elif path.startswith("/api/models/org/tiny/tree/"):
            entries = [
                {"type": "file", "path": file, "size": len(content), "oid": "0" * 40}
                for file, content in FILES.items()
            ]
            body = json.dumps(entries).encode()
        elif path.startswith("/org/tiny/resolve/") and name in FILES:
            body = FILES[name]
        else:
            code = (
                "RevisionNotFound" if path.startswith("/api/models/org/tiny/") else "RepoNotFound"
            )
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a hub that nobody answers at."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    _point_to(monkeypatch, "http://127.0.0.1:9")
    return tmp_path


@pytest.fixture
def asked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The hub, and what it was asked for."""
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever)
    thread.start()
    _point_to(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield Hub.asked
    server.shutdown()
    thread.join()
    server.server_close()


def _point_to(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_model_is_fetched_once_without_its_pickles_and_then_needs_no_network(
    asked: list[str], cache: Path
) -> None:
    assert hub.find_cached("hub:org/tiny") is None
    folder = hub.fetch("hub:org/tiny")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert cache in folder.parents
    asked.clear()
    assert hub.fetch("hub:org/tiny") == hub.require_cached("hub:org/tiny") == folder
    assert hub.find_cached(f"hub:org/tiny@{COMMIT}") == folder
    assert asked == []


def test_cache_that_was_filled_halfway_is_none(asked: list[str]) -> None:
    (hub.fetch("hub:org/tiny") / "model.safetensors").unlink()
    assert hub.find_cached("hub:org/tiny") is None


def test_folder_is_whole_with_all_the_files_that_its_index_names(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert not hub._is_complete(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x", "b": "y"}}')
    (tmp_path / "x").touch()
    assert not hub._is_complete(tmp_path)
    (tmp_path / "y").touch()
    assert hub._is_complete(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hub:org/none", "is neither a folder here nor a model of the hub that you may read"),
        ("hub:org/tiny@v9", "is a model of the hub without the revision v9"),
        ("hub:a/b/c", "is neither a folder here nor a name on the hub"),
    ],
)
def test_fetch_says_what_the_hub_does_not_have(asked: list[str], text: str, problem: str) -> None:
    with pytest.raises(HubModelError, match=problem):
        hub.fetch(text)


def test_fetch_says_how_to_bring_a_model_where_there_is_no_network(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HubModelError, match=r"is no folder here, and the hub could not be asked"):
        hub.fetch("hub:org/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubModelError, match="HF_HUB_OFFLINE forbids to fetch it") as raised:
        hub.fetch("hub:org/tiny")
    assert "Fetch it where there is a network, as `hf download org/tiny`" in raised.value.fix
    with pytest.raises(HubModelError, match="is not whole in this machine's cache"):
        hub.require_cached("hub:org/tiny")


@pytest.mark.parametrize("index", ["[]", '{"weight_map": []}', "[" * 100_000, "{}", "{"])
def test_cached_model_with_a_damaged_index_is_not_whole(tmp_path: Path, index: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert not hub._is_complete(tmp_path)


def _answer(status: int) -> Exception:
    response = httpx.Response(status, request=httpx.Request("GET", "https://a.test"))
    return httpx.HTTPStatusError("no", request=response.request, response=response)


@pytest.mark.parametrize(
    ("error", "is_outage"),
    [
        (httpx.ConnectTimeout("no"), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (_answer(503), True),
        (_answer(429), True),
        (_answer(404), False),
        (ValueError("no"), False),
        (FileNotFoundError(), False),
    ],
)
def test_only_the_way_to_the_hub_is_an_outage(error: Exception, is_outage: bool) -> None:
    assert hub.is_outage(error) == is_outage
    wrapped = OSError("cannot be loaded")
    wrapped.__cause__ = error
    assert hub.is_outage(wrapped) == is_outage


def test_outage_is_worth_another_start(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise httpx.ConnectTimeout("nobody answers")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setattr(hub, "find_cached", lambda _: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(
        HubModelOutageError, match=r"could not be asked for it \(nobody answers"
    ) as raised:
        hub.fetch("hub:org/tiny")
    assert raised.value.exit_code is ExitCode.FAILED
