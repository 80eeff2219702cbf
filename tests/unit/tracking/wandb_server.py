"""A server on loopback that speaks as much of wandb's protocol as a run needs.

It keeps what it is sent as the real one does: history lines by their offset, so that a
client that goes on somewhere else overwrites or leaves a gap, and both can be seen.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_OPERATION = re.compile(r"\s*(?:query|mutation)\s+(\w+)")


@dataclass
class StoredRun:
    """What the server knows of one run."""

    name: str
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    upserts: list[dict[str, Any]] = field(default_factory=list)
    system: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """History in the order of its lines."""
        return [row for _, row in sorted(self.history.items())]


class RefusalError(Exception):
    """What the server says no with."""


class WandbServer:
    """Runs, projects and sweeps in memory; `is_cut` makes it answer nobody."""

    def __init__(self, port: int = 0) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.keeps_artifacts_out = False
        self.refuses_artifacts = ""
        self.artifacts: list[dict[str, Any]] = []
        self.artifact_files: dict[str, bytes] = {}
        self.operations: list[str] = []
        self.requests: list[tuple[str, str]] = []
        self.sweep: dict[str, Any] = {}
        self.sweep_commands: list[dict[str, Any]] = []
        self.is_cut = False
        self.num_refused = 0
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _handler_of(self))
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @contextmanager
    def serving(self) -> Iterator[WandbServer]:
        """Answers while the block lasts."""
        thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()

    def run(self, name: str) -> StoredRun:
        """The run of that id, made if need be."""
        return self.runs.setdefault(name, StoredRun(name))

    # -- What is answered

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        match = _OPERATION.match(query)
        operation = match[1] if match else "?"
        self.operations.append(operation)
        answer = getattr(self, f"_on_{operation.lower()}", None)
        return answer(variables) if answer else {}

    def _on_viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        viewer = {
            "id": "u",
            "entity": "me",
            "username": "me",
            "flags": "{}",
            "teams": {"edges": []},
        }
        server: dict[str, Any] = {
            "cliVersionInfo": {},
            "latestLocalVersionInfo": None,
            "features": [],
        }
        return {"viewer": viewer, "serverInfo": server}

    def _on_serverfeaturesquery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _on_runresumestatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        bucket = None if run is None or not run.upserts else self._bucket(run)
        return {
            "model": {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}, "bucket": bucket}
        }

    def _on_upsertbucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.run(variables["name"])
        is_new = not run.upserts
        run.upserts.append(variables)
        if variables.get("config"):
            run.config = json.loads(variables["config"])
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": is_new}}

    def _on_createrunfiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("run") or variables.get("name")
        files = [
            {"name": file, "uploadUrl": f"{self.url}/upload/{name}/{file}"}
            for file in variables.get("files", [])
        ]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}

    def _on_notifyscriptablerunalert(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.run(variables["runName"]).alerts.append(variables)
        return {"notifyScriptableRunAlert": {"success": True}}

    def _on_sweepwithruns(self, variables: dict[str, Any]) -> dict[str, Any]:
        sweep = {
            "id": "s",
            "name": variables["sweep"],
            "method": self.sweep["method"],
            "state": "RUNNING",
            "config": json.dumps(self.sweep),
            "runs": {"edges": []},
        }
        return {"project": {"sweep": sweep}}

    def _on_createagent(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": "a"}}}

    def _on_heartbeat(self, _: dict[str, Any]) -> dict[str, Any]:
        # One command at a time; the agent takes no other while a trial runs.
        commands = [self.sweep_commands.pop(0)] if self.sweep_commands else []
        return {"agentHeartbeat": {"agent": {"id": "a"}, "commands": json.dumps(commands)}}

    def _on_artifacttype(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": None}

    def _on_createartifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        if self.refuses_artifacts:
            raise RefusalError(self.refuses_artifacts)
        self.artifacts.append(variables["input"])
        identity = f"artifact-{len(self.artifacts)}"
        artifact = {
            "id": identity,
            "state": "PENDING",
            "artifactSequence": {"latestArtifact": None},
        }
        return {"createArtifact": {"artifact": artifact}}

    def _on_createartifactmanifest(self, _: dict[str, Any]) -> dict[str, Any]:
        file = {"id": "f", "uploadHeaders": [], "uploadUrl": f"{self.url}/upload/-/manifest"}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def _on_updateartifactmanifest(self, _: dict[str, Any]) -> dict[str, Any]:
        file = {"id": "f", "uploadHeaders": [], "uploadUrl": f"{self.url}/upload/-/manifest"}
        return {"updateArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def _on_createartifactfiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        def node(asked: dict[str, Any]) -> dict[str, Any]:
            return {
                "storagePath": asked["name"],
                "uploadUrl": f"{self.url}/upload/{asked['artifactID']}/{asked['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": asked["artifactID"]},
            }

        edges = [{"node": node(asked)} for asked in variables["input"]["artifactFiles"]]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _on_commitartifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        artifact = {"id": variables["artifactID"], "digest": "d"}
        return {"commitArtifact": {"artifact": artifact}}

    def _on_artifactbyid(self, variables: dict[str, Any]) -> dict[str, Any]:
        number = int(variables["id"].removeprefix("artifact-"))
        made = self.artifacts[number - 1]
        artifact = {
            "__typename": "Artifact",
            "id": variables["id"],
            "artifactSequence": {"name": made["artifactCollectionName"], "project": None},
            "versionIndex": 0,
            "artifactType": {"name": made["artifactTypeName"]},
            "description": None,
            "metadata": made["metadata"],
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": "COMMITTED",
            "size": 0,
            "digest": made["digest"],
            "commitHash": None,
            "fileCount": 1,
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": None,
        }
        return {"artifact": artifact}

    def _bucket(self, run: StoredRun) -> dict[str, Any]:
        last = run.upserts[-1] if run.upserts else {}
        rows = run.rows
        return {
            "id": base64.b64encode(f"Run:v1:{run.name}:p:me".encode()).decode(),
            "name": run.name,
            "displayName": last.get("displayName") or run.name,
            "description": "",
            "notes": "",
            "sweepName": last.get("sweep"),
            "state": "running",
            "project": {
                "id": "p",
                "name": last.get("project") or "p",
                "entity": {"id": "e", "name": "me"},
            },
            "historyLineCount": len(run.history),
            "eventsLineCount": len(run.system),
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps(run.summary),
            "config": json.dumps(run.config),
            "tags": last.get("tags") or [],
            "wandbConfig": json.dumps({"t": 1}),
            "files": {"edges": []},
        }

    def stream(self, name: str, content: dict[str, Any]) -> dict[str, Any]:
        """Takes lines of a run's files."""
        run = self.run(name)
        for file, chunk in (content.get("files") or {}).items():
            lines = [json.loads(line) for line in chunk["content"] if file != "output.log"]
            if file == "wandb-history.jsonl":
                run.history |= {chunk["offset"] + idx: line for idx, line in enumerate(lines)}
            elif file == "wandb-summary.json":
                run.summary = lines[-1]
            elif file == "wandb-events.jsonl":
                run.system += lines
        if content.get("complete"):
            run.exit_code = content.get("exitcode")
        return {"limits": {}}


def _handler_of(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self._answer()

        def do_PUT(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def handle(self) -> None:
            # A client that is killed leaves its connection open.
            with suppress(ConnectionError):
                super().handle()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if server.is_cut or (server.keeps_artifacts_out and "/upload/artifact" in self.path):
                # No answer at all, as on a network that is gone.
                self.close_connection = True
                server.num_refused += 1
                return
            server.requests.append((self.command, self.path))
            self._send(self._content(body))

        def _content(self, body: bytes) -> dict[str, Any]:
            if self.path.endswith("/graphql"):
                asked = json.loads(body)
                try:
                    return {"data": server.graphql(asked["query"], asked.get("variables") or {})}
                except RefusalError as refusal:
                    return {"errors": [{"message": str(refusal)}], "data": None}
            if self.path.endswith("/file_stream"):
                return server.stream(self.path.split("/")[-2], json.loads(body))
            if self.path.startswith("/upload/"):
                _, _, run, file = self.path.split("/", 3)
                if run in server.runs:
                    server.runs[run].files[file] = body
                else:
                    server.artifact_files[f"{run}/{file}"] = body
            return {}

        def _send(self, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    return Handler
