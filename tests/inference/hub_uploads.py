"""A stand-in for the Hugging Face hub, as far as an upload of small files goes: create, validate cards, preupload, commit."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import default_client_factory
from ruamel.yaml import YAML

URL = "https://huggingface.co"


class StandInHub(httpx2.MockTransport):
    """Keeps what is committed in `files`, by kind and path: "models/someone/cats/README.md"."""

    def __init__(self, token: str) -> None:
        super().__init__(self._answer)
        self.token: str | None = token  # None: it cannot be reached
        self.repositories: dict[str, dict[str, str]] = {}  # by address -> what was asked for
        self.files: dict[str, bytes] = {}
        self.cards: list[dict[str, str]] = []  # validated
        self.commits = 0

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        path, lines = request.url.path, [json.loads(line) for line in request.read().splitlines()]
        if self.token is None:
            raise httpx2.ConnectError("Connection refused")
        if path == "/api/validate-yaml":  # which needs no token
            [card] = lines
            self.cards.append(card)
            errors = faults_of(**card)
            content = {"errors": [{"message": error} for error in errors], "warnings": []}
            return httpx2.Response(400 if errors else 200, json=content)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return httpx2.Response(401, json={"error": "Invalid credentials"})
        if path == "/api/repos/create":
            repository, kind = f"{lines[0].get('organization')}/{lines[0]['name']}", f"{lines[0].get('type', 'model')}s"
            self.repositories[f"{kind}/{repository}"] = lines[0]
            address = repository if kind == "models" else f"{kind}/{repository}"
            return httpx2.Response(200, json={"url": f"{URL}/{address}", "name": repository})
        if "/preupload/" in path:
            files = [file["path"] for file in lines[0]["files"]]
            found = [{"path": file, "uploadMode": "regular", "shouldIgnore": False} for file in files]
            return httpx2.Response(200, json={"files": found})
        if "/commit/" in path:
            repository = path.removeprefix("/api/").split("/commit/")[0]
            committed = [line["value"] for line in lines if line["key"] == "file"]
            self.files |= {f"{repository}/{file['path']}": base64.b64decode(file["content"]) for file in committed}
            self.commits += 1
            return httpx2.Response(200, json={"commitUrl": f"{URL}/someone/cats/commit/{40 * '1'}", "commitOid": 40 * "1"})
        return httpx2.Response(404, json={"error": path})


def faults_of(content: str, repoType: str) -> list[str]:
    """What the hub refuses in a card's front matter, as far as its documentation names it."""
    _, front, _ = content.split("---\n", 2)
    data: dict[str, Any] = YAML(typ="safe").load(front)
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
    """A hub that answers huggingface_hub's own client while the block runs."""
    hub = StandInHub(token)
    set_client_factory(lambda: httpx2.Client(transport=hub, follow_redirects=True))
    try:
        yield hub
    finally:
        set_client_factory(default_client_factory)
