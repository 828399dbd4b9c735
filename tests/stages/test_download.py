"""The download stage: what it fetches and from where, what it holds that against, and what it leaves behind."""

import hashlib
import http.server
import json
import os
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pipeline.stages.download import HUB_DATASET
from tests.clones import ROOT, run, set_params
from tests.download.http_server import Answer, MisbehavingServer, serve
from tests.download.test_parquet import hub_parquet
from tests.download.tls import proxy_to, serve_https


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


def download(project: Path, source: str, check: bool = True, mirrors: list[str] | None = None, **environment: str) -> str:
    """Run the stage; what it printed."""
    set_params(project, {"download.source": source, "download.mirrors": mirrors or []})
    settings = {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | environment
    done = run(project, "python", "-m", "pipeline", "download", check=check, **settings)
    return done.stdout + done.stderr


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


def test_mirrors_are_tried_in_turn(served: tuple[Path, str], project: Path) -> None:
    folder, address = served
    pack(folder / "photos.zip", b"one")
    printed = download(project, f"{address}/gone.zip", mirrors=[f"{address}/gone/too.zip", f"{address}/photos.zip"])
    assert (project / "data/raw/PetImages/Cat/0.jpg").read_bytes() == b"one"
    assert "Traceback" not in printed


# What was downloaded first is what is downloaded ever after


def sha256_recorded(project: Path) -> dict[str, str]:
    lines = (project / "data/archives.sha256").read_text().splitlines()
    return {line.split("  ", 1)[1]: line.split("  ", 1)[0] for line in lines}


def test_the_first_download_is_recorded_and_another_file_is_refused(served: tuple[Path, str], project: Path) -> None:
    folder, address = served
    source = f"{address}/photos.zip"
    pack(folder / "photos.zip", b"one")
    download(project, source)
    first = hashlib.sha256((folder / "photos.zip").read_bytes()).hexdigest()
    assert sha256_recorded(project) == {source: first}
    download(project, source)  # the same file is as welcome as before

    pack(folder / "photos.zip", b"two")
    second = hashlib.sha256((folder / "photos.zip").read_bytes()).hexdigest()
    printed = download(project, source, check=False)
    assert f"SHA-256 is {second}, and {first} is expected" in printed
    assert "remove its line from data/archives.sha256" in printed
    assert "Traceback" not in printed
    assert (project / "data/raw/PetImages/Cat/0.jpg").read_bytes() == b"one"
    assert sha256_recorded(project) == {source: first}

    set_params(project, {"download.sha256": second})  # which says that the other file is meant
    download(project, source)
    assert (project / "data/raw/PetImages/Cat/0.jpg").read_bytes() == b"two"
    assert sha256_recorded(project) == {source: second}


def test_a_record_that_is_none_is_told(served: tuple[Path, str], project: Path) -> None:
    folder, address = served
    pack(folder / "photos.zip", b"one")
    (project / "data").mkdir()
    (project / "data/archives.sha256").write_text("what?\n")
    assert "archives.sha256 has a line that is no SHA-256" in download(project, f"{address}/photos.zip", check=False)


def test_git_does_not_ignore_the_record() -> None:
    """It does its work in other clones once it is committed, and DVC may not remove it as a stage's output."""
    assert run(ROOT, "git", "check-ignore", "data/archives.sha256", check=False).returncode == 1
    assert "archives.sha256" not in (ROOT / "dvc.yaml").read_text()


# The Hugging Face hub: a local one, of which the hub's own library is told


@pytest.fixture
def hub(tmp_path: Path, direct: None) -> Iterator[tuple[MisbehavingServer, dict[str, str]]]:
    """A hub with two Parquet files of the data set, and the environment that leads to it."""
    with serve(b"") as server:
        put(server, tmp_path, "a" * 40, [[os.urandom(40_000) for _ in range(4)], [os.urandom(40_000) for _ in range(2)]])
        address = server.url.removesuffix("/photos.zip")
        yield server, {"HF_ENDPOINT": address}


def put(server: MisbehavingServer, folder: Path, commit: str, photos: list[list[bytes]]) -> None:
    """Have the hub serve photos, half cats and half dogs in each file, as a commit."""
    siblings: list[dict[str, Any]] = [{"rfilename": "README.md", "size": 4}]
    for number, contents in enumerate(photos):
        name = f"data/train-0000{number}-of-0000{len(photos)}.parquet"
        half = len(contents) // 2
        content = hub_parquet(folder / name, list(contents), [0] * half + [1] * half).read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        lfs = {"sha256": sha256, "size": len(content), "pointerSize": 134}
        siblings.append({"rfilename": name, "size": len(content), "lfs": lfs})
        server.files[f"/datasets/{HUB_DATASET}/resolve/{commit}/{name}"] = content
    listing = {"id": HUB_DATASET, "sha": commit, "siblings": siblings}
    server.files[f"/api/datasets/{HUB_DATASET}"] = json.dumps(listing).encode()


def test_photos_from_the_hub(hub: tuple[MisbehavingServer, dict[str, str]], project: Path, tmp_path: Path) -> None:
    server, environment = hub
    server.answers = [Answer(), Answer(after=2**16, cut=True)]  # the listing, then the first file
    printed = download(project, "huggingface", **environment)
    names = sorted(
        path.relative_to(project / "data/raw/PetImages").as_posix() for path in (project / "data/raw").rglob("*.jpg")
    )
    assert names == ["cat/0.jpg", "cat/1.jpg", "cat/4.jpg", "dog/2.jpg", "dog/3.jpg", "dog/5.jpg"]
    assert all(path.stat().st_size == 40_000 for path in (project / "data/raw").rglob("*.jpg"))
    assert "6 files of 2 classes" in printed
    assert "bytes=65536-" in server.asked()  # the broken connection was gone on with
    assert len(sha256_recorded(project)) == 2
    assert not list((project / "data/.downloads").rglob("*.parquet"))

    put(server, tmp_path, "b" * 40, [[os.urandom(100) for _ in range(4)]] * 2)
    printed = download(project, "huggingface", check=False, **environment)
    assert "train-00000-of-00002.parquet now has the sha256" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<html>log in first</html>", "did not answer with a list of the files"),
        (b'{"sha": "0", "siblings": [{"rfilename": "data.zip"}]}', "has no Parquet files of microsoft/cats_vs_dogs"),
    ],
)
def test_a_hub_that_is_none(hub: tuple[MisbehavingServer, dict[str, str]], project: Path, content: bytes, told: str) -> None:
    server, environment = hub
    server.files[f"/api/datasets/{HUB_DATASET}"] = content
    printed = download(project, "huggingface", check=False, **environment)
    assert told in printed
    assert "Traceback" not in printed


def test_a_hub_that_does_not_have_the_photos(hub: tuple[MisbehavingServer, dict[str, str]], project: Path) -> None:
    server, environment = hub
    server.answers = [Answer(401)]
    printed = download(project, "huggingface", check=False, **environment)
    assert "HTTP 401 Unauthorized" in printed
    assert "set download.source to the path" in printed
    assert "Traceback" not in printed


# Kaggle


def test_kaggles_whole_download_holds_the_photos_in_a_zip_inside(project: Path) -> None:
    inner = project / "train.zip"
    with zipfile.ZipFile(inner, "w") as file:
        for name in ("train/cat.0.jpg", "train/cat.1.jpg", "train/dog.0.jpg"):
            file.writestr(name, name)
    with zipfile.ZipFile(project / "dogs-vs-cats.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.write(inner, "train.zip")
        file.writestr("test1.zip", b"not asked for")
        file.writestr("sampleSubmission.csv", "id,label")
    download(project, "dogs-vs-cats.zip")
    photos = {path.relative_to(project / "data/raw").as_posix() for path in (project / "data/raw").rglob("*.jpg")}
    assert photos == {"PetImages/Cat/0.jpg", "PetImages/Cat/1.jpg", "PetImages/Dog/0.jpg"}
    assert {path.name for path in (project / "data").iterdir()} == {"raw"}


def test_a_damaged_zip_inside_is_told_and_leaves_nothing(project: Path) -> None:
    with zipfile.ZipFile(project / "dogs-vs-cats.zip", "w") as file:
        file.writestr("train.zip", b"PK\x03\x04 and no more")
    printed = download(project, "dogs-vs-cats.zip", check=False)
    assert "dogs-vs-cats.zip/train.zip is damaged" in printed
    assert "Traceback" not in printed
    assert list((project / "data").iterdir()) == []


def test_kaggle_without_its_client(project: Path) -> None:
    """A Python that has everything but the client: what a person has who did not ask for the extra."""
    blocker = project / "site/sitecustomize.py"
    blocker.parent.mkdir()
    blocker.write_text(
        "import importlib.machinery as m\n"
        "find = m.PathFinder.find_spec\n"
        "m.PathFinder.find_spec = lambda name, *rest: None if name == 'kaggle' else find(name, *rest)\n"
    )
    printed = download(project, "kaggle", check=False, PYTHONPATH=f"{ROOT}{os.pathsep}{blocker.parent}")
    assert printed.count("error:") == 1
    assert "uv sync --extra kaggle" in printed
    assert "Traceback" not in printed


needs_kaggle = pytest.mark.skipif(find_spec("kaggle") is None, reason="Kaggle's client is not installed")


@needs_kaggle
def test_kaggle_without_credentials(project: Path) -> None:
    home = {"HOME": str(project), "XDG_CONFIG_HOME": str(project), "KAGGLE_CONFIG_DIR": str(project)}
    printed = download(project, "kaggle", check=False, **home)
    assert "its client found no credentials" in printed
    assert "https://www.kaggle.com/settings/api" in printed
    assert "Traceback" not in printed


@needs_kaggle
def test_kaggles_client_brings_the_photos(project: Path, tmp_path: Path, direct: None) -> None:
    """Kaggle's own client against a server that calls itself Kaggle, behind a proxy that leads nowhere else."""
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as file:
        for name in ("train/cat.0.jpg", "train/dog.0.jpg"):
            file.writestr(name, name)
    with serve_https(b"", ["api.kaggle.com"], tmp_path) as (server, authority), proxy_to(server) as proxy:
        server.files["/files/train.zip"] = (tmp_path / "train.zip").read_bytes()
        environment = {"HOME": str(tmp_path), "https_proxy": proxy.url, "REQUESTS_CA_BUNDLE": str(authority)}
        environment |= {"KAGGLE_USERNAME": "somebody", "KAGGLE_KEY": "0" * 32, "NO_PROXY": "", "no_proxy": ""}
        server.answers = [Answer(302, {"Location": "/files/train.zip?signed=1"})]
        download(project, "kaggle", **environment)
        photos = {path.relative_to(project / "data/raw").as_posix() for path in (project / "data/raw").rglob("*.jpg")}
        assert photos == {"PetImages/Cat/0.jpg", "PetImages/Dog/0.jpg"}
        assert list(sha256_recorded(project)) == ["https://www.kaggle.com/c/dogs-vs-cats/train.zip"]
        assert not list((project / "data/.downloads").rglob("*.zip"))

        server.answers = [Answer(403)]
        printed = download(project, "kaggle", check=False, **environment)
    assert "403" in printed
    assert "https://www.kaggle.com/c/dogs-vs-cats/rules" in printed
    assert "Traceback" not in printed
