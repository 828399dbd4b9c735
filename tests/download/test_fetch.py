"""Downloads from a real server on this machine that does what servers and networks do on a bad day, and their continuation."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.download import sources
from pipeline.download.sources import fetch
from pipeline.errors import PipelineError
from pipeline.inference import classifier
from pipeline.preprocess.decode import Refused
from tests.clones import ROOT, wait_for
from tests.download.http_server import CONTENT, SHA256, Answer, MisbehavingServer, assert_whole, part_of
from tests.download.tls import Proxy, proxy_to, serve_https

HALF = 2 * 2**16  # what has arrived when a server stops there; a whole number of the pieces that are written
SIZE = len(CONTENT)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three attempts, and hardly a second to wait."""
    for name, value in {"ATTEMPTS": 3, "BACKOFF": 0.01, "TIMEOUTS": (2.0, 0.3)}.items():
        monkeypatch.setattr(sources, name, value)


@pytest.fixture
def one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "ATTEMPTS", 1)


def assert_refused(server: MisbehavingServer, destination: Path, message: str, sha256: str | None = None) -> None:
    with pytest.raises(PipelineError, match=message):
        fetch(server.url, destination, sha256=sha256)
    assert not destination.exists()


def test_what_is_there_is_not_asked_for_again(server: MisbehavingServer, destination: Path) -> None:
    fetch(server.url, destination, sha256=SHA256)
    fetch(server.url, destination, sha256=SHA256)
    [(_, headers)] = server.requests
    assert not re.match("python|curl|Wget", headers["User-Agent"])  # some sites refuse the names of libraries
    destination.write_bytes(CONTENT[::-1])
    fetch(server.url, destination, sha256=SHA256)
    assert_whole(destination)


@pytest.mark.parametrize("status", [429, 503])
def test_temporary_trouble_is_tried_again(server: MisbehavingServer, destination: Path, status: int) -> None:
    server.answers = [Answer(status), Answer(status, {"Retry-After": "soon"})]
    fetch(server.url, destination)
    assert len(server.requests) == 3
    assert_whole(destination)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        *((Answer(status), rf"photos.zip could not .*: HTTP {status} \w") for status in (401, 404)),
        (Answer(503, {"Retry-After": "3600"}), "HTTP 503 .*, Retry-After 3600 s"),
    ],
)
def test_lasting_trouble_is_not(server: MisbehavingServer, destination: Path, answer: Answer, message: str) -> None:
    server.answers = [answer]
    assert_refused(server, destination, message)
    assert len(server.requests) == 1


def test_waits_grow_and_retry_after_is_honoured(
    server: MisbehavingServer, destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BACKOFF", 0.1)
    server.answers = [Answer(500)] * 3
    started = time.monotonic()
    assert_refused(server, destination, "HTTP 500")
    assert 0.1 + 0.2 <= time.monotonic() - started < 1
    server.answers = [Answer(429, {"Retry-After": "1"})]
    fetch(server.url, destination)
    assert 1.3 <= time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([Answer(headers={"Content-Length": f"{SIZE + 100}"}, ignores_range=True)] * 3, "IncompleteRead.*100 more expected"),
        ([Answer(headers={"Content-Length": f"{SIZE + 10**18}"})], r"no room to download .*1,000,000,000,000\.3 MB are needed"),
        ([Answer(302, {"Location": "/photos.zip"})] * 99, "Exceeded 30 redirects"),
        ([Answer(stall=True)] * 3, "ReadTimeout: timed out|ReadTimeoutError: .*timed out"),
        ([Answer(length=False, cut=True)] * 3, "ProtocolError: "),
        ([], f"SHA-256 is {SHA256}, and {'0' * 64} is expected"),
    ],
    ids=["short", "no room", "redirects", "stalled", "short and chunked", "other SHA-256"],
)
def test_what_is_not_the_file(server: MisbehavingServer, destination: Path, answers: list[Answer], message: str) -> None:
    server.answers = answers
    assert_refused(server, destination, message, sha256="0" * 64)
    assert not list(destination.parent.glob("*.zip"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk(server: MisbehavingServer, destination: Path) -> None:
    destination.parent.mkdir()
    part_of(destination).symlink_to("/dev/full")
    assert_refused(server, destination, f"{destination} cannot be written: the disk mounted at .* is full")


# No network, and HTTPS


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1/a.zip", "Connection refused"),
        ("http://photos.invalid/a.zip", "[nN]ame"),
        ("a.zip", "Invalid URL 'a.zip'"),
    ],
)
def test_no_network_is_one_message(destination: Path, url: str, message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        fetch(url, destination, hint="Without a network, draw photos instead.")
    first, hint = str(caught.value).splitlines()
    assert re.match(rf"{url} could not be downloaded: \w+: .*{message}", first)
    assert hint == "Without a network, draw photos instead."
    assert "Max retries" not in first  # nor what else wraps the reason


@pytest.mark.usefixtures("one_attempt")
def test_a_dead_proxy_is_named_once(destination: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    with pytest.raises(PipelineError) as caught:
        fetch("https://photos.invalid/a.zip", destination)
    assert re.search(r"ProxyError: [^:]*'127.0.0.1', port=1\):[^:]*: \[Errno \d+\] Connection refused$", str(caught.value))


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
    fetch(server.url, destination, sha256=SHA256)
    assert [path for path, _ in server.requests] == ["/photos.zip", "/moved.zip", "/photos.zip"]
    assert set(proxy.asked) == {"photos.invalid:443"}
    assert_whole(destination)


def test_no_step_down_from_https(secure: tuple[MisbehavingServer, Proxy], server: MisbehavingServer, destination: Path) -> None:
    """The address that it is sent to would give the very file; it is not even asked."""
    encrypted, _ = secure
    encrypted.answers = [Answer(302, {"Location": "/on.zip"}), Answer(302, {"Location": server.url})]
    assert_refused(encrypted, destination, f"it redirects from HTTPS to {server.url}, which is refused")
    encrypted.answers = [Answer(302, {"Location": server.url})]
    with pytest.raises(Refused, match="it redirects from HTTPS"):
        classifier.fetch(encrypted.url)
    assert server.requests == []


@pytest.mark.usefixtures("one_attempt")
def test_an_unknown_certificate(
    secure: tuple[MisbehavingServer, Proxy], destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    assert_refused(secure[0], destination, r"(?i)certificate")
    assert secure[0].requests == []


# Continuing, in the same process and in a later one


@pytest.mark.parametrize(("stall", "length"), [(True, True), (False, False)], ids=["stalled", "cut and chunked"])
def test_only_the_rest_is_asked_for(
    server: MisbehavingServer, destination: Path, capsys: pytest.CaptureFixture[str], stall: bool, length: bool
) -> None:
    server.answers = [Answer(after=HALF, length=length, stall=stall, cut=not stall)]
    fetch(server.url, destination, sha256=SHA256)
    assert server.asked() == [None, f"bytes={HALF}-"]
    assert_whole(destination)
    assert re.search(r"downloading photos\.zip: 0\.3 (MB )?of 0\.3 MB", capsys.readouterr().out)


@pytest.mark.usefixtures("one_attempt")
def test_a_connection_that_breaks_again_and_again(server: MisbehavingServer, destination: Path) -> None:
    server.content = CONTENT * 20
    server.answers = [Answer(after=SIZE * 4, cut=True)] * 4
    fetch(server.url, destination)  # each brings more than a megabyte
    assert len(server.requests) == 5
    assert_whole(destination, CONTENT * 20)


def test_a_server_that_always_breaks_and_cannot_resume(server: MisbehavingServer, destination: Path) -> None:
    server.content = CONTENT * 20
    server.answers = [Answer(after=SIZE * 4, cut=True, ignores_range=True)] * 9
    assert_refused(server, destination, "ProtocolError: .*IncompleteRead")
    assert len(server.requests) == 4  # the first brought more than there had been, which three did not


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_a_later_process_continues(server: MisbehavingServer, destination: Path, how: signal.Signals) -> None:
    server.answers = [Answer(after=HALF, stall=True)]
    code = "import sys, pathlib, pipeline.download.sources as f; f.fetch(sys.argv[1], pathlib.Path(sys.argv[2]))"
    with subprocess.Popen([sys.executable, "-c", code, server.url, destination], cwd=ROOT, stderr=subprocess.PIPE) as process:
        wait_for(lambda: part_of(destination).exists() and part_of(destination).stat().st_size == HALF)
        process.send_signal(how)
        process.communicate(timeout=10)
    assert process.returncode == -how
    assert not destination.exists()
    fetch(server.url, destination, sha256=SHA256)
    assert server.asked() == [None, f"bytes={HALF}-"]
    assert_whole(destination)


@pytest.fixture
def halfway(server: MisbehavingServer, destination: Path, monkeypatch: pytest.MonkeyPatch) -> MisbehavingServer:
    """The server, after a process that was stopped half-way."""
    server.answers = [Answer(after=HALF, cut=True)]
    with monkeypatch.context() as patch:
        patch.setattr(sources, "ATTEMPTS", 1)
        assert_refused(server, destination, r"0\.1 MB have arrived in .*photos\.zip\.part; the next run continues")
    assert part_of(destination).read_bytes() == CONTENT[:HALF]
    server.requests.clear()
    return server


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        (Answer(ignores_range=True), 1),
        (Answer(replaces=CONTENT[::-1]), 1),
        (Answer(headers={"Content-Range": f"bytes {HALF - 1}-{SIZE - 1}/{SIZE}"}), 2),
        (Answer(headers={"ETag": '"other"'}), 2),
        (Answer(headers={"Content-Range": f"bytes {HALF}-299998/299999"}), 2),
        (Answer(length=False, extra=100), 2),
        (Answer(416), 2),
    ],
    ids=["ignores the range", "changed file", "another range", "another version", "another size", "too long", "no such range"],
)
def test_starting_again(halfway: MisbehavingServer, destination: Path, answer: Answer, asked: int) -> None:
    halfway.answers = [answer]
    fetch(halfway.url, destination)
    assert halfway.asked() == [f"bytes={HALF}-", None][:asked]
    assert_whole(destination, halfway.content)


@pytest.mark.parametrize(
    ("part", "note", "query", "asked"),
    [
        (CONTENT, "", "", []),
        (bytes(HALF), "", "", [f"bytes={HALF}-", None]),
        (CONTENT[:HALF], "{", "", [None]),
        (CONTENT[:HALF], "[]", "", [None]),
        (CONTENT[:HALF], "", "?other", [None]),
    ],
    ids=["killed after the last byte", "damaged", "garbled note", "empty note", "another address"],
)
def test_what_an_earlier_process_left(
    halfway: MisbehavingServer, destination: Path, part: bytes, note: str, query: str, asked: list[str | None]
) -> None:
    part_of(destination).write_bytes(part)
    if note:
        destination.with_name("photos.zip.part.json").write_text(note)
    fetch(halfway.url + query, destination, sha256=SHA256)
    assert halfway.asked() == asked
    assert_whole(destination)


def test_continuing_needs_a_strong_etag_or_a_date(
    server: MisbehavingServer, destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "ATTEMPTS", 4)
    date = "Wed, 25 Sep 2013 00:00:00 GMT"
    weak = {"ETag": 'W/"1"'}
    headers = [{"ETag": ""}, weak, weak | {"Last-Modified": date}]
    server.answers = [Answer(after=HALF, cut=True, headers=given) for given in headers]
    fetch(server.url, destination)
    asked = [(sent.get("Range"), sent.get("If-Range")) for _, sent in server.requests]
    assert asked == [(None, None)] * 3 + [(f"bytes={HALF}-", date)]
    assert_whole(destination)
