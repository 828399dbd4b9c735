"""A model repository on this machine that speaks as much of the Hugging Face hub's protocol as a download needs."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.servers import running

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Serves the files of a folder as those of one repository's main branch."""

    def __init__(self, repository: str, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {f"/{repository}/resolve/main/{file.name}": file.read_bytes() for file in folder.iterdir()}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.fetched: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._head(self.server.files.get(self.path))

    def do_GET(self) -> None:
        content = self.server.files.get(self.path)
        self.server.fetched.append(self.path.rpartition("/")[2])
        self._head(content)
        self.wfile.write(content or b"")

    def _head(self, content: bytes | None) -> None:
        self.close_connection = True
        self.send_response(404 if content is None else 200)
        headers = {"X-Repo-Commit": COMMIT, "Content-Length": str(len(content or b"")), "Connection": "close"}
        # As the hub does: a missing file is told from a missing repository, and a file's ETag is its SHA-256.
        if content is None:
            headers["X-Error-Code"] = "EntryNotFound"
        else:
            headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serve_hub(repository: str, folder: Path) -> Iterator[HubServer]:
    """A server that runs while the block does."""
    with running(HubServer(repository, folder)) as server:
        yield server
