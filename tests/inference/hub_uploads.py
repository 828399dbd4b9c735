"""A stand-in for the Hugging Face hub, as far as an upload of small files goes: create a repository, preupload, commit."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.servers import running


class StandInHub(ThreadingHTTPServer):
    """Keeps what is committed in `files`."""

    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: set[str] = set()
        self.files: dict[str, bytes] = {}
        self.commits = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandInHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        lines = [json.loads(line) for line in self._body().splitlines()]
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._json({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            repository = f"{lines[0].get('organization')}/{lines[0]['name']}"
            self.server.repositories.add(repository)
            self._json({"url": f"{self.server.url}/{repository}", "name": repository})
        elif "/preupload/" in self.path:
            files = [file["path"] for file in lines[0]["files"]]
            self._json({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]})
        elif "/commit/" in self.path:
            files = [line["value"] for line in lines if line["key"] == "file"]
            self.server.files |= {file["path"]: base64.b64decode(file["content"]) for file in files}
            self.server.commits += 1
            self._json({"commitUrl": f"{self.server.url}/someone/cats/commit/{40 * '1'}", "commitOid": 40 * "1"})
        else:  # the validation of the card
            self._json({"errors": [], "warnings": []})

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

    def _json(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def stand_in_hub(token: str) -> Iterator[StandInHub]:
    """A hub that runs while the block does."""
    with running(StandInHub(token)) as server:
        yield server
