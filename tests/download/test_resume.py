"""Downloads that break off: the same process or a later one goes on from what has arrived, where that is sound."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.download.fetch import fetch
from pipeline.errors import PipelineError
from tests.download.http_server import CONTENT, QUICK, SHA256, Answer, MisbehavingServer, assert_whole, part_of

HALF = 2 * 2**16  # what has arrived when a server stops there; a whole number of the pieces that are written


@pytest.mark.parametrize("stall", [True, False], ids=["stalled", "cut"])
@pytest.mark.parametrize("length", [True, False], ids=["stated length", "chunked"])
def test_only_the_rest_is_asked_for(
    server: MisbehavingServer,
    destination: Path,
    capsys: pytest.CaptureFixture[str],
    stall: bool,
    length: bool,
) -> None:
    server.answers = [Answer(after=HALF, length=length, stall=stall, cut=not stall)]
    fetch([server.url], destination, sha256=SHA256, **QUICK)
    assert server.asked() == [None, f"bytes={HALF}-"]
    assert_whole(destination)
    assert re.search(r"downloading photos\.zip: 0\.3 (MB )?of 0\.3 MB", capsys.readouterr().out)


def test_a_connection_that_breaks_again_and_again(server: MisbehavingServer, destination: Path) -> None:
    server.content = CONTENT * 20
    server.answers = [Answer(after=len(CONTENT) * 4, cut=True)] * 4
    fetch([server.url], destination, **{**QUICK, "attempts": 1})  # each brings more than a megabyte
    assert len(server.requests) == 5
    assert_whole(destination, CONTENT * 20)


def test_a_server_that_always_breaks_and_cannot_resume(server: MisbehavingServer, destination: Path) -> None:
    server.content = CONTENT * 20
    server.answers = [Answer(after=len(CONTENT) * 4, cut=True, ignores_range=True)] * 9
    with pytest.raises(PipelineError, match="the connection broke off: IncompleteRead"):
        fetch([server.url], destination, **QUICK)
    assert len(server.requests) == 4  # the first brought more than there had been, which three did not


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_a_later_process_goes_on(server: MisbehavingServer, destination: Path, how: signal.Signals) -> None:
    server.answers = [Answer(after=HALF, stall=True)]
    code = "import sys, pathlib, pipeline.download.fetch as f; f.fetch(sys.argv[1:2], pathlib.Path(sys.argv[2]))"
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code, server.url, destination], cwd=root, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 20
        while not (part_of(destination).exists() and part_of(destination).stat().st_size == HALF):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(how)
        process.communicate(timeout=10)
    assert process.returncode == -how
    assert not destination.exists()
    fetch(["http://127.0.0.1:9/elsewhere", server.url], destination, sha256=SHA256, **QUICK)
    assert server.asked() == [None, f"bytes={HALF}-"]
    assert_whole(destination)


def cut_in_the_middle(server: MisbehavingServer, destination: Path) -> None:
    """Leave what a process leaves that was stopped half-way."""
    server.answers = [Answer(after=HALF, cut=True)]
    with pytest.raises(PipelineError, match=r"0\.1 MB of it are kept in .*photos\.zip\.part, from where"):
        fetch([server.url], destination, **{**QUICK, "attempts": 1})
    assert part_of(destination).read_bytes() == CONTENT[:HALF]


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        (Answer(ignores_range=True), 1),
        (Answer(replaces=CONTENT[::-1]), 1),
        (Answer(range_shift=-1), 2),
        (Answer(headers={"ETag": '"other"'}), 2),
        (Answer(headers={"Content-Range": f"bytes {HALF}-299998/299999"}), 2),
        (Answer(416), 2),
    ],
    ids=["ignores the range", "changed file", "another range", "another version", "another size", "no such range"],
)
def test_starting_afresh(server: MisbehavingServer, destination: Path, answer: Answer, asked: int) -> None:
    cut_in_the_middle(server, destination)
    server.answers = [answer]
    fetch([server.url], destination, **QUICK)
    assert server.asked()[1:] == [f"bytes={HALF}-", None][:asked]
    assert_whole(destination, server.content)


def test_no_resuming_without_a_version(server: MisbehavingServer, destination: Path) -> None:
    server.with_etag = False
    server.answers = [Answer(after=HALF, cut=True)]
    fetch([server.url], destination, **QUICK)
    assert server.asked() == [None, None]
    assert_whole(destination)


def test_no_resuming_with_a_weak_etag_unless_there_is_a_date(server: MisbehavingServer, destination: Path) -> None:
    date = "Wed, 25 Sep 2013 00:00:00 GMT"
    server.answers = [
        Answer(after=HALF, cut=True, headers={"ETag": 'W/"1"'}),
        Answer(after=HALF, cut=True, headers={"ETag": 'W/"1"', "Last-Modified": date}),
    ]
    fetch([server.url], destination, **QUICK)
    assert [(headers.get("Range"), headers.get("If-Range")) for _, headers in server.requests] == [
        (None, None),
        (None, None),
        (f"bytes={HALF}-", date),
    ]
    assert_whole(destination)


@pytest.mark.parametrize("note", ["", "{", '{"url": 1}', "[]"])
def test_a_garbled_note_is_no_reason_to_fail(server: MisbehavingServer, destination: Path, note: str) -> None:
    cut_in_the_middle(server, destination)
    destination.with_name("photos.zip.part.json").write_text(note)
    fetch([server.url], destination, sha256=SHA256, **QUICK)
    assert server.asked() == [None, None]
    assert_whole(destination)


def test_killed_after_the_last_byte(server: MisbehavingServer, destination: Path) -> None:
    cut_in_the_middle(server, destination)
    part_of(destination).write_bytes(CONTENT)
    fetch([server.url], destination, sha256=SHA256, **QUICK)
    assert len(server.requests) == 1
    assert_whole(destination)


def test_a_spoilt_part_is_fetched_again(server: MisbehavingServer, destination: Path) -> None:
    cut_in_the_middle(server, destination)
    part_of(destination).write_bytes(bytes(HALF))
    fetch([server.url], destination, sha256=SHA256, **QUICK)
    assert server.asked() == [None, f"bytes={HALF}-", None]
    assert_whole(destination)


def test_a_rest_longer_than_stated(server: MisbehavingServer, destination: Path) -> None:
    cut_in_the_middle(server, destination)
    server.answers = [Answer(length=False, extra=100)]
    fetch([server.url], destination, **QUICK)
    assert server.asked() == [None, f"bytes={HALF}-", None]
    assert_whole(destination)
