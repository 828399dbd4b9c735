"""The download stage from an address: what it fetches, unpacks and clears away, against a real local server."""

import http.server
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.clones import ROOT, run, set_params


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address of a server of its files."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return folder


def pack(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name in ("PetImages/Cat/0.jpg", "PetImages/Dog/0.jpg"):
            file.writestr(name, content)


def download(project: Path, source: str, check: bool = True) -> str:
    set_params(project, {"download.source": source})
    done = run(project, "python", "-m", "pipeline", "download", check=check, PYTHONPATH=str(ROOT), NO_PROXY="127.0.0.1")
    return done.stderr


def test_an_address_is_fetched_unpacked_and_cleared_away(served: tuple[Path, str], project: Path) -> None:
    folder, address = served
    pack(folder / "photos.zip", b"one")
    download(project, f"{address}/photos.zip?version=1")
    assert (project / "data/raw/PetImages/Cat/0.jpg").read_bytes() == b"one"
    assert not list((project / "data/.downloads").rglob("*"))


def test_a_file_of_the_same_name_from_another_address_is_not_taken_for_it(served: tuple[Path, str], project: Path) -> None:
    folder, address = served
    (folder / "a").mkdir()
    (folder / "a/photos.zip").write_bytes(b"<html>no archive</html>")
    assert "photos.zip" in download(project, f"{address}/a/photos.zip", check=False)
    pack(folder / "b/photos.zip", b"two")
    download(project, f"{address}/b/photos.zip")
    assert (project / "data/raw/PetImages/Dog/0.jpg").read_bytes() == b"two"


def test_an_archive_of_the_person_is_never_removed(project: Path) -> None:
    own = project / "data/.downloads/mine.zip"
    own.parent.mkdir(parents=True)
    pack(own, b"mine")
    download(project, "data/.downloads/mine.zip")
    assert own.is_file()
