"""The page answers a photo, refuses what is none, loses nobody among many, and gives nothing to a foreign site."""

import base64
import io
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
import uvicorn
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.inference import Classifier
from pipeline.inference.page import MAX_BYTES, PAGE, create_app, serve

CHROMIUM = Path("/usr/bin/chromium")
TIMEOUT = 120


@pytest.fixture(scope="module")
def address(classifier: Classifier) -> Iterator[str]:
    """The page on a real socket; both checkpoints are the same one."""
    app = create_app({"frozen": classifier, "fine-tuned": classifier})
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False  # no proxies
        yield session


def test_a_photo_is_answered_as_the_classifier_answers(
    address: str, session: requests.Session, classifier: Classifier, photos: list[Path]
) -> None:
    answered = session.post(f"{address}/predict", data=photos[0].read_bytes(), timeout=TIMEOUT)
    assert answered.status_code == 200
    (expected,) = classifier.predict([photos[0]])
    first, second = answered.json()["models"]
    assert (first["name"], second["name"]) == ("frozen", "fine-tuned")
    assert first["label"] == expected.label
    assert first["note"] == classifier.note
    assert first["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    heat = Image.open(io.BytesIO(base64.b64decode(first["heat"].removeprefix("data:image/jpeg;base64,"))))
    assert heat.size == (128, 128)


@pytest.mark.parametrize(
    ("body", "reason"), [(b"", "empty file"), (b"<svg/>", "not a photo"), (b"\xff\xd8\xff\xe0 no more", "no photo")]
)
def test_what_is_no_photo_is_refused(address: str, session: requests.Session, body: bytes, reason: str) -> None:
    answered = session.post(f"{address}/predict", data=body, timeout=TIMEOUT)
    assert answered.status_code == 422
    assert reason in answered.json()["error"]


def test_too_many_pixels_are_refused(address: str, session: requests.Session) -> None:
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    assert len(bomb.getvalue()) < 100_000
    answered = session.post(f"{address}/predict", data=bomb.getvalue(), timeout=TIMEOUT)
    assert answered.status_code == 422
    assert "too many pixels" in answered.json()["error"]


@pytest.mark.parametrize("stated", [True, False])
def test_too_large_a_file_is_refused_before_it_is_read(address: str, stated: bool) -> None:
    """By its stated length at once; without one as soon as too much has come."""
    host, port = address.removeprefix("http://").split(":")
    length = f"Content-Length: {10**12}" if stated else "Transfer-Encoding: chunked"
    body = bytes(0 if stated else MAX_BYTES + 1)  # and not a byte more: what is not read would reset the connection
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
        connection.sendall(f"POST /predict HTTP/1.1\r\nHost: {host}:{port}\r\n{length}\r\n\r\n".encode())
        for start in range(0, len(body), 2**20):
            part = body[start : start + 2**20]
            connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        answer = connection.recv(4096).decode()
    assert answer.startswith("HTTP/1.1 413")
    assert "connection: close" in answer.lower()


def test_fifty_at_once_are_all_answered(address: str, classifier: Classifier, photos: list[Path]) -> None:
    chosen = [photos[index % len(photos)] for index in range(50)]
    expected = {path: classifier.predict([path])[0].label for path in set(chosen)}

    def ask(path: Path) -> requests.Response:
        return requests.post(f"{address}/predict", data=path.read_bytes(), timeout=TIMEOUT, proxies={"http": ""})

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, chosen))
    assert [answer.status_code for answer in answers] == [200] * 50
    assert [answer.json()["models"][0]["label"] for answer in answers] == [expected[path] for path in chosen]


def test_a_foreign_site_gets_nothing(address: str, session: requests.Session) -> None:
    def get(**headers: str) -> int:
        return session.get(address, headers=headers, timeout=TIMEOUT).status_code

    port = address.rpartition(":")[2]
    for name in ("127.0.0.1", "localhost", "192.168.1.7", "[::1]"):
        assert get(Host=f"{name}:{port}") == 200
    for name in ("evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example"):
        assert get(Host=f"{name}:{port}") == 403
    foreign = session.post(f"{address}/predict", data=b"", headers={"Origin": "http://evil.example"}, timeout=TIMEOUT)
    assert foreign.status_code == 403


def test_only_the_page_and_its_answers_are_served(address: str, session: requests.Session) -> None:
    for path in (
        "/../pyproject.toml",
        "/%2e%2e/pyproject.toml",
        "/page.html",
        "/outputs/frozen/checkpoint.json",
        "//etc/passwd",
    ):
        request = requests.Request("GET", address).prepare()
        request.url = address + path
        assert session.send(request, timeout=TIMEOUT).status_code == 404
    assert session.get(f"{address}/predict", timeout=TIMEOUT).status_code == 405


def test_the_page_loads_nothing_from_elsewhere(address: str, session: requests.Session) -> None:
    answered = session.get(address, timeout=TIMEOUT)
    assert answered.text == PAGE.read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import|<link[^>]+stylesheet|\son\w+=|style=", answered.text)
    assert f"MAX_BYTES = {MAX_BYTES}" in answered.text
    assert f"up to {MAX_BYTES // 10**6} MB" in answered.text
    policy = answered.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert answered.headers["X-Content-Type-Options"] == "nosniff"


def test_a_port_that_is_taken_is_told(checkpoint: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(PipelineError, match=r"cannot listen at 127.0.0.1, port \d+: .*--port"):
            serve({"frozen": checkpoint}, host="127.0.0.1", port=taken.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_a_browser_shows_the_answer(address: str, photos: list[Path], tmp_path: Path, width: int, scheme: str) -> None:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    no_photo = tmp_path / "no_photo.jpg"
    no_photo.write_bytes(b"no photo")
    told: list[str] = []
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("console", lambda message: told.append(message.text) if "422" not in message.text else None)
        page.on(
            "request", lambda request: None if request.url.startswith((address, "data:", "blob:")) else told.append(request.url)
        )
        page.goto(address)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "file"
        page.set_input_files("#file", photos[0])
        page.wait_for_selector("article figure img", timeout=TIMEOUT * 1000)
        assert page.locator("article").count() == 2
        assert re.search(r"(cat|dog) [\d.>% ]+", page.locator(".verdict").first.inner_text())
        assert "say" in page.locator("#summary").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("[...document.images].filter(i => i.offsetWidth).every(i => i.naturalWidth > 0 && i.alt)")
        page.set_input_files("#file", no_photo)
        page.wait_for_selector("#message:not([hidden])", timeout=TIMEOUT * 1000)
        assert "no photo that can be read" in page.locator("#message").inner_text()
        assert page.locator("article").count() == 0
        browser.close()
    assert told == []
