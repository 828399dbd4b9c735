"""The page answers a photo, says in one sentence what is none, asks no other host, and leaves nothing of an upload behind."""

import os
import stat
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from pipeline.errors import PipelineError
from pipeline.inference import Classifier
from pipeline.inference import page as page_module
from pipeline.inference.page import running_page, serve

CHROMIUM = Path("/usr/bin/chromium")
TIMEOUT = 120_000  # milliseconds

# Of what Gradio is made of.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")]


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_foreign_site_gets_nothing_and_what_is_missing_is_one_sentence(
    direct: None, classifier: Classifier, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # where nobody answers
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    with running_page({"frozen": classifier}) as page, requests.Session() as session:
        for name, status in (("127.0.0.1", 200), ("localhost", 200), ("evil.example", 400), ("127.0.0.1.evil.example", 400)):
            assert session.get(page.local_url, headers={"Host": f"{name}:{page.server_port}"}, timeout=60).status_code == status
        for path in ("gradio_api/file=/etc/passwd", f"gradio_api/file={Path(__file__)}", "../pyproject.toml"):
            assert session.get(page.local_url + path, timeout=60).status_code in (403, 404)
        assert session.get(page.local_url + "gradio_api/info", timeout=60).json()["named_endpoints"] == {}
        with pytest.raises(PipelineError, match=r"cannot listen at 127.0.0.1, port \d+: .*--port"):
            serve({"frozen": checkpoint}, host="127.0.0.1", port=page.server_port)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(PipelineError, match="uv sync --inexact --extra page"), running_page({"frozen": classifier}):
        pass


def test_two_people_who_give_the_same_photo_are_answered_at_once(
    direct: None, classifier: Classifier, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradio keeps equal uploads in one file, and the first answer deletes it: nobody's photo may wait there for a turn."""
    both = threading.Barrier(2, timeout=60)
    monkeypatch.setattr(page_module, "answers_of", lambda classifiers, photo: str(both.wait()))
    with running_page({"frozen": classifier}) as page, ThreadPoolExecutor() as pool:
        api, uploads = f"{page.local_url}gradio_api", Path(os.environ["GRADIO_TEMP_DIR"])

        def upload() -> str:
            return requests.post(f"{api}/upload", files={"files": photos[0].read_bytes()}, timeout=60).json()[0]

        def answer_to(path: str) -> str:
            asked = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}], "fn_index": 0, "session_hash": "any"}
            return requests.post(f"{api}/run/predict", json=asked, timeout=60).json()["data"][1]

        config = requests.get(f"{page.local_url}config", timeout=60).json()
        [event] = config["dependencies"]
        assert event["queue"] is False  # so a browser asks as `answer_to` does
        [file_types] = [one["props"]["file_types"] for one in config["components"] if one["type"] == "file"]
        assert {"image", ".heic", ".avif"} <= {*file_types}  # browsers know no type of the latter
        broken_off, under_way = uploads / "broken_off", uploads / "under_way"
        broken_off.touch()
        os.utime(broken_off, (0, 0))
        first = pool.submit(answer_to, upload())
        while files_in(uploads):
            time.sleep(0.01)
        under_way.touch()
        assert {answer_to(upload()), first.result()} == {"0", "1"}
        assert files_in(uploads) == [under_way]


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}; on Debian: apt-get install chromium")
def test_a_browser_shows_the_answer_and_nothing_is_left(classifier: Classifier, photos: list[Path], tmp_path: Path) -> None:
    from playwright.sync_api import Route, sync_playwright

    no_photo = tmp_path / "no_photo.jpg"
    no_photo.write_bytes(b"no photo")
    unexpected: list[str] = []
    expected = classifier.predict(photos[0])[0]
    with running_page({"frozen": classifier, "fine-tuned": classifier}) as running, sync_playwright() as playwright:
        uploads = Path(os.environ["GRADIO_TEMP_DIR"])
        assert stat.S_IMODE(uploads.stat().st_mode) == 0o700

        def only_own(route: Route) -> None:
            if route.request.url.startswith((running.local_url, "data:", "blob:")):
                route.continue_()
            else:
                unexpected.append(route.request.url)
                route.abort()

        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        tab = browser.new_page(viewport={"width": 390, "height": 900})
        tab.on("pageerror", lambda error: unexpected.append(str(error)))
        tab.on("console", lambda message: unexpected.append(message.text) if message.type == "error" else None)
        tab.route("**/*", only_own)
        tab.goto(running.local_url, timeout=TIMEOUT)
        tab.wait_for_selector("input[type=file]", state="attached", timeout=TIMEOUT)
        tab.set_input_files("input[type=file]", photos[0])
        tab.wait_for_selector(".answers img", timeout=TIMEOUT)
        assert tab.locator(".answers img").count() == 2
        assert tab.evaluate("[...document.querySelectorAll('.answers img')].every(i => i.naturalWidth > 0 && i.alt)")
        text = tab.inner_text("body")
        assert text.count(f"{expected.probability:.0%}") >= 2
        assert ("Out of distribution" in text) == expected.is_ood
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert files_in(uploads) == []
        tab.set_input_files("input[type=file]", no_photo)
        tab.wait_for_selector("[role=alert] >> text=not a photo", timeout=TIMEOUT)
        assert tab.locator(".answers img").count() == 0
        assert files_in(uploads) == []
        browser.close()
    assert not uploads.exists()
    assert unexpected == []
