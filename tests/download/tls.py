"""HTTPS on this machine: a server with a certificate for any host, and a proxy that leads there whatever host is asked for."""

import select
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

from tests.download.http_server import MisbehavingServer, serve
from tests.servers import running


@contextmanager
def serve_https(content: bytes, hosts: list[str], folder: Path) -> Iterator[tuple[MisbehavingServer, Path]]:
    """A server that speaks TLS as each of `hosts`, and the file of the authority that says so."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*hosts).configure_cert(context)
    server = MisbehavingServer(content)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.url = server.url.replace("http://127.0.0.1", f"https://{hosts[0]}")
    with serve(server):
        yield server, folder / "authority.pem"


class Proxy(ThreadingHTTPServer):
    """Answers CONNECT for any host with a tunnel to one server, and remembers for which."""

    def __init__(self, target: MisbehavingServer) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.target = target.server_address
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that end are no news."""


class _Tunnel(BaseHTTPRequestHandler):
    server: Proxy

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.server.asked.append(self.path)
        with socket.create_connection(self.server.target) as far:
            self.send_response(200)
            self.end_headers()
            other = {self.connection: far, far: self.connection}
            while ready := select.select(list(other), [], [], 10)[0]:
                for end in ready:
                    piece = end.recv(2**16)
                    if not piece:
                        return
                    other[end].sendall(piece)


@contextmanager
def proxy_to(target: MisbehavingServer) -> Iterator[Proxy]:
    """A proxy that runs while the block does."""
    with running(Proxy(target)) as proxy:
        yield proxy
