"""A stand-in for the Hugging Face hub, as far as an upload of small files goes: create, list, validate, preupload, commit."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ruamel.yaml import YAML

from tests.servers import running


class StandInHub(ThreadingHTTPServer):
    """Keeps what is committed in `files`, by kind and path: "models/someone/cats/README.md"."""

    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, dict[str, str]] = {}  # by address -> what was asked for
        self.files: dict[str, bytes] = {}
        self.cards: list[dict[str, str]] = []  # validated
        self.commits = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandInHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        lines = [json.loads(line) for line in self._body().splitlines()]
        if self.path == "/api/validate-yaml":  # which needs no token
            [card] = lines
            self.server.cards.append(card)
            errors = faults_of(**card)
            self._json({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)
        elif self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._json({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            repository, kind = f"{lines[0].get('organization')}/{lines[0]['name']}", f"{lines[0].get('type', 'model')}s"
            self.server.repositories[f"{kind}/{repository}"] = lines[0]
            address = repository if kind == "models" else f"{kind}/{repository}"
            self._json({"url": f"{self.server.url}/{address}", "name": repository})
        elif "/preupload/" in self.path:
            files = [file["path"] for file in lines[0]["files"]]
            self._json({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]})
        elif "/commit/" in self.path:
            files = [line["value"] for line in lines if line["key"] == "file"]
            repository = self.path.removeprefix("/api/").split("/commit/")[0]
            self.server.files |= {f"{repository}/{file['path']}": base64.b64decode(file["content"]) for file in files}
            for line in lines:
                if line["key"] == "deletedFile":
                    del self.server.files[f"{repository}/{line['value']['path']}"]
            self.server.commits += 1
            self._json({"commitUrl": f"{self.server.url}/someone/cats/commit/{40 * '1'}", "commitOid": 40 * "1"})
        else:
            self._json({"error": self.path}, 404)

    def do_GET(self) -> None:
        repository, _, revision = self.path.removeprefix("/api/").partition("/tree/")
        if revision.startswith("main"):
            names = [name.removeprefix(f"{repository}/") for name in self.server.files if name.startswith(f"{repository}/")]
            self._json([{"type": "file", "path": name, "size": 1, "oid": 40 * "1"} for name in names])
        else:
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


def faults_of(content: str, repoType: str) -> list[str]:
    """What the hub refuses in a card's front matter, as far as its documentation names it."""
    _, front, _ = content.split("---\n", 2)
    data = YAML(typ="safe").load(front)
    if repoType == "space":
        return [f'"{key}" is required' for key in ("title", "sdk", "app_file") if not data.get(key)]
    faults = [f'"{key}" must be text' for key in ("license", "library_name", "pipeline_tag") if not isinstance(data[key], str)]
    faults += [f'"{key}" must be a list' for key in ("tags", "metrics", "datasets") if not isinstance(data.get(key, []), list)]
    for result in (result for entry in data.get("model-index", []) for result in entry["results"]):
        numbers = [metric["value"] for metric in result["metrics"]]
        if not {"task", "dataset"} <= set(result) or not all(isinstance(number, float) for number in numbers):
            faults.append('"model-index" is broken')
    return faults


@contextmanager
def stand_in_hub(token: str) -> Iterator[StandInHub]:
    """A hub that runs while the block does."""
    with running(StandInHub(token)) as server:
        yield server
