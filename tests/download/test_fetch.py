"""Downloads from a real server on this machine that does what servers and networks do on a bad day."""

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.download.fetch import HttpsSession, fetch
from pipeline.errors import PipelineError
from tests.download.http_server import CONTENT, QUICK, SHA256, Answer, MisbehavingServer, assert_whole, part_of
from tests.download.tls import Proxy, proxy_to, serve_https


def test_download(server: MisbehavingServer, destination: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch([server.url], destination, size=len(CONTENT), sha256=SHA256.upper())
    assert_whole(destination)
    assert re.search(r"downloading photos\.zip: 0\.3 (MB )?of 0\.3 MB", capsys.readouterr().out)


def test_what_is_there_is_not_asked_for_again(server: MisbehavingServer, destination: Path) -> None:
    destination.parent.mkdir()
    destination.write_bytes(CONTENT)
    fetch([server.url], destination, sha256=SHA256)
    assert server.requests == []
    destination.write_bytes(CONTENT[::-1])
    fetch([server.url], destination, sha256=SHA256)
    assert_whole(destination)


def test_mirrors_in_turn(server: MisbehavingServer, destination: Path) -> None:
    server.answers = [Answer(404)]
    fetch([server.url + "?first", server.url + "?second", server.url + "?third"], destination, **QUICK)
    assert [path for path, _ in server.requests] == ["/photos.zip?first", "/photos.zip?second"]
    assert_whole(destination)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_trouble_is_tried_again(server: MisbehavingServer, destination: Path, status: int) -> None:
    server.answers = [Answer(status), Answer(status, {"Retry-After": "soon"})]
    fetch([server.url], destination, **QUICK)
    assert len(server.requests) == 3
    assert_whole(destination)


@pytest.mark.parametrize("status", [401, 403, 404, 410, 501])
def test_lasting_trouble_is_not(server: MisbehavingServer, destination: Path, status: int) -> None:
    server.answers = [Answer(status)]
    with pytest.raises(PipelineError, match=rf"photos.zip: HTTP {status} \w"):
        fetch([server.url], destination, **QUICK)
    assert len(server.requests) == 1


def test_retry_after_is_honoured(server: MisbehavingServer, destination: Path) -> None:
    server.answers = [Answer(429, {"Retry-After": "1"})]
    started = time.monotonic()
    fetch([server.url], destination, **QUICK)
    assert 1 <= time.monotonic() - started < 2


def test_a_server_that_asks_for_an_hour_is_left_alone(server: MisbehavingServer, destination: Path) -> None:
    server.answers = [Answer(503, {"Retry-After": "3600"})]
    with pytest.raises(PipelineError, match="asked again after 3600 s"):
        fetch([server.url], destination, **QUICK)


def test_waits_grow_between_attempts(server: MisbehavingServer, destination: Path) -> None:
    server.answers = [Answer(500)] * 4
    started = time.monotonic()
    with pytest.raises(PipelineError, match="HTTP 500"):
        fetch([server.url], destination, attempts=4, backoff=0.1)
    assert len(server.requests) == 4
    assert 0.1 + 0.2 + 0.4 <= time.monotonic() - started < 1.5


def assert_refused(server: MisbehavingServer, destination: Path, message: str, **wanted: Any) -> None:
    with pytest.raises(PipelineError, match=message):
        fetch([server.url], destination, **wanted, **QUICK)
    assert not destination.exists()


def test_a_body_shorter_than_stated(server: MisbehavingServer, destination: Path) -> None:
    server.answers = [Answer(more=100, ignores_range=True)] * 3
    assert_refused(server, destination, "IncompleteRead.*100 more expected")


def test_a_chunked_body_shorter_than_known(server: MisbehavingServer, destination: Path) -> None:
    server.answers = [Answer(length=False)] * 9
    assert_refused(server, destination, "only 300,000 bytes of 300,100 came", size=300_100)


def test_a_chunked_body_longer_than_known(server: MisbehavingServer, destination: Path) -> None:
    server.answers = [Answer(length=False, extra=100)] * 3
    assert_refused(server, destination, "more than 300,000 bytes of 300,000 came", size=len(CONTENT))


def test_a_file_of_another_size(server: MisbehavingServer, destination: Path) -> None:
    assert_refused(server, destination, "has 300,000 bytes, and 300,001 are expected", size=300_001)
    assert len(server.requests) == 1


def test_a_file_of_another_sha256(server: MisbehavingServer, destination: Path) -> None:
    assert_refused(server, destination, f"SHA-256 is {SHA256}, and {'0' * 64} is expected", sha256="0" * 64)
    assert len(server.requests) == 1
    assert list(destination.parent.iterdir()) == []


def test_redirects_are_followed(server: MisbehavingServer, destination: Path) -> None:
    server.answers = [Answer(302, {"Location": "/moved.zip"})]
    fetch([server.url], destination, **QUICK)
    assert [path for path, _ in server.requests] == ["/photos.zip", "/moved.zip"]
    assert_whole(destination)


def test_redirects_without_end(server: MisbehavingServer, destination: Path) -> None:
    server.answers = [Answer(302, {"Location": "/photos.zip"})] * 99
    assert_refused(server, destination, "Exceeded 30 redirects")


@pytest.mark.parametrize(
    ("location", "refused"),
    [
        ("http://photos.invalid/a.zip", True),
        ("HTTP://photos.invalid/a.zip", True),
        ("ftp://photos.invalid/a.zip", True),
        ("https://elsewhere.invalid/a.zip", False),
        ("/b.zip", False),
        ("//elsewhere.invalid/b.zip", False),
    ],
)
def test_no_redirect_from_https_to_http(server: MisbehavingServer, location: str, refused: bool) -> None:
    server.answers = [Answer(302, {"Location": location})]
    with HttpsSession() as session, session.get(server.url, allow_redirects=False) as response:
        response.url = "https://photos.invalid/a.zip"  # as if it had come from there; a certificate is hard to come by
        if not refused:
            assert session.get_redirect_target(response) == location
            return
        with pytest.raises(Exception, match=f"(?i)redirects from HTTPS to {location}, which is refused"):
            session.get_redirect_target(response)


@pytest.mark.usefixtures("direct")
def test_no_network(destination: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    urls = [f"http://127.0.0.1:{port}/a.zip", "http://photos.invalid/a.zip", "gopher://photos.invalid/a.zip", "a.zip"]
    with pytest.raises(PipelineError) as caught:
        fetch(urls, destination, otherwise="Without a network, draw photos instead.", **QUICK)
    head, refused, unresolved, no_http, no_address, otherwise = str(caught.value).splitlines()
    assert re.fullmatch(r"photos\.zip could not be downloaded, after \d s:", head)
    assert refused == f"  {urls[0]}: Connection refused"
    assert unresolved.startswith(f"  {urls[1]}: ")
    assert "name" in unresolved.lower()
    assert no_http.startswith(f"  {urls[2]}: No connection adapters were found")
    assert no_address.startswith(f"  {urls[3]}: Invalid URL 'a.zip'")
    assert otherwise == "Without a network, draw photos instead."


@pytest.mark.usefixtures("direct")
def test_a_server_that_never_answers(destination: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/photos.zip"
        with pytest.raises(PipelineError, match=r"nothing came for 0\.3 s"):
            fetch([url], destination, **{**QUICK, "attempts": 1})


def test_the_proxy_is_used(server: MisbehavingServer, destination: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/photos.zip"))
    fetch(["http://photos.invalid/photos.zip"], destination, **QUICK)
    assert [path for path, _ in server.requests] == ["http://photos.invalid/photos.zip"]
    assert_whole(destination)


@pytest.fixture
def secure(direct: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[MisbehavingServer, Proxy]]:
    """A server at https://photos.invalid, and the proxy that alone leads there."""
    with serve_https(CONTENT, ["photos.invalid"], tmp_path) as (server, authority), proxy_to(server) as proxy:
        server.url = "https://photos.invalid/photos.zip"
        monkeypatch.setenv("https_proxy", proxy.url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
        yield server, proxy


def test_https_through_a_proxy(secure: tuple[MisbehavingServer, Proxy], destination: Path) -> None:
    server, proxy = secure
    server.answers = [Answer(302, {"Location": "https://photos.invalid/moved.zip"}), Answer(after=2**17, cut=True)]
    fetch([server.url], destination, sha256=SHA256, **QUICK)
    assert [path for path, _ in server.requests] == ["/photos.zip", "/moved.zip", "/photos.zip"]
    assert set(proxy.asked) == {"photos.invalid:443"}
    assert_whole(destination)


def test_no_step_down_from_https(secure: tuple[MisbehavingServer, Proxy], server: MisbehavingServer, destination: Path) -> None:
    """The address that it is sent to would give the very file; it is not even asked."""
    encrypted, _ = secure
    encrypted.answers = [Answer(302, {"Location": "/on.zip"}), Answer(302, {"Location": server.url})]
    with pytest.raises(PipelineError, match=f"it redirects from HTTPS to {server.url}, which is refused"):
        fetch([encrypted.url], destination, **QUICK)
    assert server.requests == []
    assert not destination.exists()


def test_a_certificate_that_nobody_vouches_for(
    secure: tuple[MisbehavingServer, Proxy], destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = secure
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(PipelineError, match=r"(?i)certificate"):
        fetch([server.url], destination, **{**QUICK, "attempts": 1})
    assert server.requests == []


def test_too_little_room(server: MisbehavingServer, destination: Path) -> None:
    server.answers = [Answer(length=False)]
    assert_refused(server, destination, r"no room to download .*1,000,000,000,000\.0 MB are needed", size=10**18)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk(server: MisbehavingServer, destination: Path) -> None:
    destination.parent.mkdir()
    part_of(destination).symlink_to("/dev/full")
    assert_refused(server, destination, f"{destination} cannot be written: the disk mounted at .* is full")
