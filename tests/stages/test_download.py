"""The download stage: where it gets photos from, how it checks them, and what it leaves behind."""

import hashlib
import http.server
import json
import os
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.download.sources import HUB_DATASET
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


def download(project: Path, source: str, check: bool = True, **environment: str) -> str:
    """Run the stage; what it printed, which is never a traceback."""
    set_params(project, {"download.source": source})
    settings = {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | environment
    done = run(project, "python", "-m", "pipeline", "download", check=check, **settings)
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed
    assert printed.count("error:") == (done.returncode != 0)
    return printed


def photos_of(project: Path) -> list[str]:
    return sorted(path.relative_to(project / "data/raw/PetImages").as_posix() for path in (project / "data/raw").rglob("*.jpg"))


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


# The Hugging Face hub: its own library against a local hub


@pytest.fixture
def hub(tmp_path: Path, direct: None) -> Iterator[tuple[MisbehavingServer, dict[str, str]]]:
    """A hub with two Parquet files of the data set, and the environment that leads to it."""
    with serve(b"") as server:
        put(server, tmp_path, "a" * 40, [[os.urandom(40_000) for _ in range(4)], [os.urandom(40_000) for _ in range(2)]])
        address = server.url.removesuffix("/photos.zip")
        yield server, {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}


def put(server: MisbehavingServer, folder: Path, commit: str, photos: list[list[bytes]]) -> None:
    """Have the hub serve photos, half cats and half dogs in each file, as a commit."""
    files: list[dict[str, Any]] = [{"type": "file", "path": "README.md", "size": 4, "oid": "0" * 40}]
    for number, contents in enumerate(photos):
        name = f"data/train-0000{number}-of-0000{len(photos)}.parquet"
        half = len(contents) // 2
        content = hub_parquet(folder / name, list(contents), [0] * half + [1] * half).read_bytes()
        lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        files.append({"type": "file", "path": name, "size": len(content), "oid": "1" * 40, "lfs": lfs})
        server.files[f"/datasets/{HUB_DATASET}/resolve/{commit}/{name}"] = content
    server.headers = {"X-Repo-Commit": commit}
    server.files[f"/api/datasets/{HUB_DATASET}"] = json.dumps({"id": HUB_DATASET, "sha": commit}).encode()
    server.files[f"/api/datasets/{HUB_DATASET}/tree/{commit}"] = json.dumps(files).encode()


def test_photos_from_the_hub(hub: tuple[MisbehavingServer, dict[str, str]], project: Path, tmp_path: Path) -> None:
    server, environment = hub
    printed = download(project, "huggingface", **environment)
    assert photos_of(project) == ["cat/0.jpg", "cat/1.jpg", "cat/4.jpg", "dog/2.jpg", "dog/3.jpg", "dog/5.jpg"]
    assert all(path.stat().st_size == 40_000 for path in (project / "data/raw").rglob("*.jpg"))
    assert "6 files of 2 classes (layout: class folders): cat 3, dog 3" in printed
    assert len(sha256_recorded(project)) == 2

    server.requests.clear()
    download(project, "huggingface", **environment)
    assert not [path for path, _ in server.requests if "parquet" in path]  # what is there is not asked for again

    put(server, tmp_path, "b" * 40, [[os.urandom(100) for _ in range(4)]] * 2)
    printed = download(project, "huggingface", check=False, **environment)
    assert "train-00000-of-00002.parquet has the SHA-256" in printed
    assert "remove its line from" in printed


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        (f"/api/datasets/{HUB_DATASET}", b"<html>log in first</html>", "JSON"),
        (f"/api/datasets/{HUB_DATASET}", b"{}", "KeyError('id')"),
        (f"/api/datasets/{HUB_DATASET}/tree/{'a' * 40}", b"[]", "has no Parquet files at its commit aaaa"),
    ],
)
def test_a_hub_that_is_none(
    hub: tuple[MisbehavingServer, dict[str, str]], project: Path, path: str, content: bytes, message: str
) -> None:
    server, environment = hub
    server.files[path] = content
    printed = download(project, "huggingface", check=False, **environment)
    assert message in printed
    assert "set download.source to the path" in printed


@pytest.mark.parametrize(("status", "message"), [(401, "401"), (0, "refused")])
def test_a_hub_that_cannot_be_had(
    hub: tuple[MisbehavingServer, dict[str, str]], project: Path, status: int, message: str
) -> None:
    server, environment = hub
    server.answers = [Answer(status)] * 9
    environment |= {} if status else {"HF_ENDPOINT": "http://127.0.0.1:1"}
    printed = download(project, "huggingface", check=False, **environment)
    assert f"{HUB_DATASET} could not be downloaded from {environment['HF_ENDPOINT']}" in printed
    assert message in printed
    assert "set download.source to the path" in printed


# Kaggle


def pack_kaggle(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name in ("train/cat.0.jpg", "train/cat.1.jpg", "train/dog.0.jpg"):
            file.writestr(name, name)


def test_kaggles_whole_download_holds_the_photos_in_a_zip_inside(project: Path) -> None:
    pack_kaggle(project / "train.zip")
    with zipfile.ZipFile(project / "dogs-vs-cats.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.write(project / "train.zip", "train.zip")
        file.writestr("test1.zip", b"not asked for")
        file.writestr("sampleSubmission.csv", "id,label")
    download(project, "dogs-vs-cats.zip")
    assert photos_of(project) == ["Cat/0.jpg", "Cat/1.jpg", "Dog/0.jpg"]
    assert {path.name for path in (project / "data").iterdir()} == {"raw"}


def test_a_damaged_zip_inside(project: Path) -> None:
    with zipfile.ZipFile(project / "dogs-vs-cats.zip", "w") as file:
        file.writestr("train.zip", b"PK\x03\x04 and no more")
    assert "dogs-vs-cats.zip/train.zip is damaged" in download(project, "dogs-vs-cats.zip", check=False)
    assert list((project / "data").iterdir()) == []


def test_kaggle_without_its_library(project: Path) -> None:
    """A Python that has everything but kagglehub: what a person has who did not ask for the extra."""
    blocker = project / "site/sitecustomize.py"
    blocker.parent.mkdir()
    blocker.write_text(
        "import importlib.machinery as m\n"
        "find = m.PathFinder.find_spec\n"
        "m.PathFinder.find_spec = lambda name, *rest: None if name == 'kagglehub' else find(name, *rest)\n"
    )
    printed = download(project, "kaggle", check=False, PYTHONPATH=f"{ROOT}{os.pathsep}{blocker.parent}")
    assert "uv sync --extra kaggle" in printed


def test_kaggle_without_a_token(project: Path) -> None:
    printed = download(project, "kaggle", check=False, HOME=str(project), KAGGLE_CONFIG_DIR=str(project))
    assert "https://www.kaggle.com/settings/api" in printed


def test_photos_from_kaggle(project: Path, tmp_path: Path, direct: None) -> None:
    """kagglehub against a server that calls itself Kaggle, behind a proxy that leads nowhere else."""
    pack_kaggle(tmp_path / "train.zip")
    content = (tmp_path / "train.zip").read_bytes()
    with serve_https(b"", ["api.kaggle.com"], tmp_path) as (server, authority), proxy_to(server) as proxy:
        server.files["/files/train.zip"] = content
        server.headers = {"Accept-Ranges": "bytes"}
        environment = {"HOME": str(tmp_path), "https_proxy": proxy.url, "REQUESTS_CA_BUNDLE": str(authority)}
        environment |= {"KAGGLE_USERNAME": "somebody", "KAGGLE_KEY": "0" * 32, "NO_PROXY": "", "no_proxy": ""}
        moved = Answer(302, {"Location": "/files/train.zip?signed=1"})
        server.answers = [moved, Answer(after=100, cut=True)]
        printed = download(project, "kaggle", check=False, **environment)
        assert "train.zip could not be downloaded from Kaggle" in printed
        server.answers = [moved]
        download(project, "kaggle", **environment)
        assert "bytes=100-" in server.asked()
        assert photos_of(project) == ["Cat/0.jpg", "Cat/1.jpg", "Dog/0.jpg"]
        assert sha256_recorded(project) == {
            "https://www.kaggle.com/c/dogs-vs-cats/train.zip": hashlib.sha256(content).hexdigest()
        }

        server.answers = [Answer(403)]
        printed = download(project, "kaggle", check=False, **environment | {"KAGGLEHUB_CACHE": str(tmp_path / "other")})
    assert "403" in printed
    assert "https://www.kaggle.com/competitions/dogs-vs-cats/rules" in printed
