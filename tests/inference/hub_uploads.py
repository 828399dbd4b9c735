"""A stand-in for the Hugging Face hub, as far as an upload goes: create a repository, preupload, Git LFS, commit."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.servers import running


class StandInHub(ThreadingHTTPServer):
    """Keeps what is committed in `files`; binary files must come by LFS and be what their SHA-256 says."""

    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: set[str] = set()
        self.large: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.commits = 0
        self.validated: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandInHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._json({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            name = json.loads(body)
            repository = f"{name.get('organization')}/{name['name']}"
            self.server.repositories.add(repository)
            self._json({"url": f"{self.server.url}/{repository}", "name": repository})
        elif self.path == "/api/validate-yaml":
            self.server.validated.append(json.loads(body)["content"])
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            self._json({"files": [{"path": path, "uploadMode": _mode(path), "shouldIgnore": False} for path in files]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            upload = {
                one["oid"]: {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}} for one in json.loads(body)["objects"]
            }
            objects = [one | {"actions": upload[one["oid"]]} for one in json.loads(body)["objects"]]
            self._json({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._json({"error": self.path}, 404)

    def do_PUT(self) -> None:
        content = self._body()
        whole = hashlib.sha256(content).hexdigest() == self.path.removeprefix("/lfs/")
        if whole:
            self.server.large[self.path.removeprefix("/lfs/")] = content
        self._json({}, 200 if whole else 400)

    def do_GET(self) -> None:
        self._json({"error": self.path}, 404)

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):  # sent in chunks
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line["key"] == "file":
                self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                self.server.files[line["value"]["path"]] = self.server.large[line["value"]["oid"]]
        self.server.commits += 1
        repository = "/".join(self.path.split("/")[3:5])
        self._json({"commitUrl": f"{self.server.url}/{repository}/commit/{40 * '1'}", "commitOid": 40 * "1"})

    def _json(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _mode(path: str) -> str:
    return "regular" if path.endswith((".md", ".json")) else "lfs"


@contextmanager
def stand_in_hub(token: str) -> Iterator[StandInHub]:
    """A hub that runs while the block does."""
    with running(StandInHub(token)) as server:
        yield server
