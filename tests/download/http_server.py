"""A real HTTP server on this machine that misbehaves on request, one answer at a time."""

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.servers import running

CONTENT = bytes(i * i % 251 for i in range(300_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LONGEST_STALL = 10.0  # seconds; a test that fails must not hang


@dataclass(frozen=True)
class Answer:
    """How to answer one request; all defaults together are a server that does everything right.

    `headers` stand in place of the right ones. After `after` bytes of the body the server stalls or cuts the connection, where
    one of those is wanted. `extra` bytes are sent beyond the body. A body without `length` is sent in chunks.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after: int = 0
    stall: bool = False
    cut: bool = False
    extra: int = 0
    length: bool = True
    ignores_range: bool = False
    replaces: bytes | None = None  # the content from this answer on


class MisbehavingServer(ThreadingHTTPServer):
    """Serves `content` at every path that is not in `files`; takes `answers` one by one, and does everything right once they
    are used up."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.files: dict[str, bytes] = {}
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.released = threading.Event()
        self.headers: dict[str, str] = {}  # of every answer
        self.fetched: list[str] = []  # what was asked for by GET, the library of a hub asks by HEAD first
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.url = f"{self.address}/photos.zip"

    def asked(self) -> list[str | None]:
        """The Range of each request so far."""
        return [headers.get("Range") for _, headers in self.requests]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what is tested; anything else would show as a test that fails."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: MisbehavingServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        answer = server.answers.pop(0) if server.answers else Answer()
        if answer.replaces is not None:
            server.content = answer.replaces
        self.close_connection = True
        if answer.status != 200:
            self._head(answer.status, {"Content-Length": "0", **answer.headers})
            return
        content = server.files.get(self.path.split("?")[0], server.content)
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        start = 0 if answer.ignores_range else self._start(etag)
        if start >= len(content):
            self._head(416, {"Content-Length": "0", "Content-Range": f"bytes */{len(content)}"})
            return
        body = content[start:]
        headers = {"ETag": etag}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        headers |= {"Content-Length": str(len(body))} if answer.length else {"Transfer-Encoding": "chunked"}
        stated = headers | server.headers | answer.headers
        self._head(206 if start else 200, {name: value for name, value in stated.items() if value})  # "" leaves one out
        if self.command != "HEAD":
            server.fetched.append(self.path)
            self._body(body + b"x" * answer.extra, answer)

    do_HEAD = do_CONNECT = do_GET  # CONNECT: as a proxy that refuses
    do_POST = do_GET  # Kaggle's library asks by POST where a file is; the body is of no interest here

    def _start(self, etag: str) -> int:
        """Where the answer begins: where it was asked to, as long as the file is still the one that is meant."""
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        unchanged = self.headers.get("If-Range", etag) == etag
        return int(wanted[1]) if wanted and unchanged else 0

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self, body: bytes, answer: Answer) -> None:
        stops = answer.stall or answer.cut
        sent = body[: answer.after] if stops else body
        if answer.length:
            self.wfile.write(sent)
        else:
            for i in range(0, len(sent), 4096):
                piece = sent[i : i + 4096]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if answer.stall:
            self.server.released.wait(LONGEST_STALL)
        if not stops and not answer.length:
            self.wfile.write(b"0\r\n\r\n")


@contextmanager
def serve(content: bytes | MisbehavingServer) -> Iterator[MisbehavingServer]:
    """A server that runs while the block does."""
    with running(content if isinstance(content, MisbehavingServer) else MisbehavingServer(content)) as server:
        try:
            yield server
        finally:
            server.released.set()


def part_of(destination: Path) -> Path:
    """Where what has arrived is kept."""
    return destination.with_name("photos.zip.part")


def assert_whole(destination: Path, content: bytes = CONTENT) -> None:
    """The file is there, and nothing else is."""
    assert destination.read_bytes() == content
    assert [path.name for path in destination.parent.iterdir()] == ["photos.zip"]
