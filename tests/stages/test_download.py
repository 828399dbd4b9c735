"""The download stage: where it gets photos from, how it checks them, and what it leaves behind."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.download.sources import HUB_DATASET
from pipeline.errors import PipelineError
from pipeline.params import load_params
from pipeline.stages.download import run as run_stage
from pipeline.stages.inputs import run as run_inputs
from tests.clones import ROOT, clone, run, set_params
from tests.download.http_server import Answer, MisbehavingServer, serve
from tests.download.packing import files_below, zipped
from tests.download.test_parquet import hub_parquet
from tests.download.tls import proxy_to, serve_https
from tests.refusals import refused

Download = Callable[..., str]


@pytest.fixture
def download(project: Path, capsys: pytest.CaptureFixture[str]) -> Download:
    """Runs the stage for a source; what it printed, or the error's text where it is to fail."""

    def download(source: str, *, fails: bool = False, **settings: Any) -> str:
        set_params(project, {"download.source": source} | {f"download.{name}": value for name, value in settings.items()})
        if fails:
            with pytest.raises(PipelineError) as caught:
                run_stage(load_params())
            return str(caught.value)
        run_stage(load_params())
        return capsys.readouterr().out

    return download


def photos_of(project: Path) -> dict[str, bytes]:
    return {path: content for path, content in files_below(project / "data/raw/PetImages").items() if path.endswith(".jpg")}


def sha256_recorded(project: Path) -> dict[str, str]:
    lines = (project / "data/archives.sha256").read_text().splitlines()
    return {line.split("  ", 1)[1]: line.split("  ", 1)[0] for line in lines}


def cat_and_dog(content: bytes) -> bytes:
    return zipped({"PetImages/Cat/0.jpg": content, "PetImages/Dog/0.jpg": content, "readme.txt": b""})


def test_an_address_is_fetched_unpacked_and_cleared_away(server: MisbehavingServer, project: Path, download: Download) -> None:
    files, address = server.files, server.address
    files["/photos.zip"] = cat_and_dog(b"one")
    printed = download(f"{address}/photos.zip?version=1")
    assert "2 files of 2 classes (layout: published): Cat 1, Dog 1" in printed
    assert "Left out 1 (no photo): readme.txt" in printed
    assert photos_of(project) == {"Cat/0.jpg": b"one", "Dog/0.jpg": b"one"}
    assert not list((project / "data/.downloads").rglob("*"))
    metrics = json.loads((project / "outputs/metrics/download.json").read_text())
    sha256 = hashlib.sha256(files["/photos.zip"]).hexdigest()
    assert metrics == {"files": 2, "megabytes": 6e-6, "archive_sha256": sha256}
    assert json.loads((project / "outputs/seconds/download.json").read_text()).keys() == {"seconds"}
    assert (project / "outputs/plots/downloaded.csv").read_text() == "class,files\nCat,1\nDog,1\n"


def test_a_file_of_the_same_name_from_another_address_is_not_taken_for_it(
    server: MisbehavingServer, project: Path, download: Download
) -> None:
    files, address = server.files, server.address
    files["/a/photos.zip"] = b"<html>no archive</html>"
    assert "begins with b'<html>" in download(f"{address}/a/photos.zip", fails=True)
    files["/b/photos.zip"] = cat_and_dog(b"two")
    download(f"{address}/b/photos.zip")
    assert photos_of(project)["Dog/0.jpg"] == b"two"


def test_an_address_that_gave_a_page_first_is_asked_again(server: MisbehavingServer, project: Path, download: Download) -> None:
    files, address = server.files, server.address
    whole, useless = cat_and_dog(b"whole"), zipped({"readme.txt": b""})
    cases = {b"<html>log in</html>": "begins with b'<html>", whole[:-30]: "cut short", useless: "no photos in a known layout"}
    for content, message in cases.items():
        files["/photos.zip"] = content
        assert message in download(f"{address}/photos.zip", fails=True)
        assert not (project / "data/archives.sha256").exists()
    files["/photos.zip"] = whole
    download(f"{address}/photos.zip")
    assert photos_of(project)["Dog/0.jpg"] == b"whole"
    files["/photos.zip"] = useless
    download(f"{address}/photos.zip", fails=True, sha256=hashlib.sha256(useless).hexdigest())
    assert list((project / "data/.downloads").rglob("photos.zip"))  # what is expected is not asked for twice


def test_a_download_that_is_not_at_fault_is_kept(server: MisbehavingServer, project: Path, download: Download) -> None:
    files, address = server.files, server.address
    files["/photos.zip"], files["/flat.zip"] = cat_and_dog(b"one"), zipped({"0.jpg": b""})
    (project / "data/raw/thesis").mkdir(parents=True)
    assert "holds other things" in download(f"{address}/photos.zip", fails=True)
    (project / "data/raw/thesis").rmdir()
    del files["/photos.zip"]
    download(f"{address}/photos.zip")
    assert photos_of(project)["Dog/0.jpg"] == b"one"
    refusal = download(f"{address}/flat.zip", fails=True)
    assert "no photos in a known layout" in refusal
    assert "remove that folder to have it fetched anew" in refusal
    assert list((project / "data/.downloads").rglob("flat.zip"))  # it may be unpacked and put in order


def test_a_path(project: Path, download: Download) -> None:
    own = project / "data/.downloads/mine.zip"
    own.parent.mkdir(parents=True)
    own.write_bytes(cat_and_dog(b"mine"))
    download("data/.downloads/mine.zip")
    assert own.is_file()  # a user's archive is never removed
    assert f"has the SHA-256 {hashlib.sha256(own.read_bytes()).hexdigest()}" in download(str(own), fails=True, sha256="0" * 64)
    assert "data is a folder, which has no SHA-256, and download.sha256 is 0" in download("data", fails=True)
    assert "none.zip does not exist" in download("none.zip", fails=True, sha256=None)
    assert photos_of(project)["Cat/0.jpg"] == b"mine"


def test_a_source_that_cannot_be_read(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    (project / "mine.zip").write_bytes(cat_and_dog(b"mine"))
    set_params(project, {"download.source": "mine.zip"})
    monkeypatch.setattr("pipeline.stages.inputs.sha256_of", forbidden)
    refused(r"mine\.zip cannot be read: Permission denied", run_inputs, load_params())


def test_a_photo_replaced_behind_a_link_is_noticed(project: Path) -> None:
    (project / "store").mkdir()
    (project / "set").mkdir()
    (project / "set/cats").symlink_to("../store")
    set_params(project, {"download.source": "set"})
    seen = set()
    for content in (b"one", b"another"):
        (project / "store/0.jpg").write_bytes(content)
        run_inputs(load_params())
        seen.add((project / "data/inputs/photos.json").read_text())
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("data/raw", "= data/raw overlaps with data/raw, which DVC removes"),
        ("data/raw/mine.zip", "mine.zip overlaps with data/raw"),
        ("data", "= data overlaps with data/raw"),
        ("data/processed/images", "images overlaps with data/processed"),
        ("drawn", r"data/raw would be replaced, and holds other things \('cats'\)"),
    ],
)
def test_photos_in_an_output_are_refused_by_the_first_stage(project: Path, source: str, message: str) -> None:
    (project / "data/raw/cats").mkdir(parents=True)
    set_params(project, {"download.source": source})
    refused(message, run_inputs, load_params())


def test_dvc_does_not_remove_photos_that_lie_in_an_output(tmp_path: Path) -> None:
    folder = clone(tmp_path)
    photo = folder / "data/raw/cats/0.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"mine")
    set_params(folder, {"download.source": "data/raw"})
    done = run(folder, "dvc", "repro", "download", check=False)
    assert "error: download.source = data/raw overlaps" in done.stderr
    assert photo.read_bytes() == b"mine"


@pytest.mark.parametrize("init", ["", "import ("], ids=["whole", "broken"])
def test_the_package_of_a_network_is_hashed_whole(project: Path, monkeypatch: pytest.MonkeyPatch, init: str) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    package = project / ("broken_package" if init else "whole_package")
    package.mkdir()
    (package / "__init__.py").write_text(init)
    (package / "net.py").write_text("from .layers import build")
    set_params(project, {"backbone.name": f"{package.name}.net:build", "backbone.weights": "none"})
    seen = set()
    for content in ("def build(): ...", "def build(): pass"):
        (package / "layers.py").write_text(content)
        run_inputs(load_params())
        seen.add((project / "data/inputs/network.json").read_text())
    assert len(seen) == (1 if init else 2)  # what is broken is for the stage that needs it to say


def test_drawn_photos(project: Path, download: Download) -> None:
    download("drawn", drawn_photos=60)
    assert len(photos_of(project)) >= 50
    assert json.loads((project / "outputs/metrics/download.json").read_text())["archive_sha256"] is None
    assert "drawn photos come from no archive" in download("drawn", fails=True, sha256="0" * 64)
    (project / "data/raw/thesis.tex").write_text("years of work")
    assert "holds other things ('thesis.tex')" in download("drawn", fails=True, sha256=None)
    assert (project / "data/raw/thesis.tex").is_file()


# What was downloaded first is what is downloaded ever after


def test_the_first_download_is_recorded_and_another_file_is_refused(
    server: MisbehavingServer, project: Path, download: Download
) -> None:
    files, address = server.files, server.address
    source = f"{address}/photos.zip"
    files["/photos.zip"] = cat_and_dog(b"one")
    first = hashlib.sha256(files["/photos.zip"]).hexdigest()
    download(source)
    assert sha256_recorded(project) == {source: first}
    download(source)  # the same file is as welcome as before

    files["/photos.zip"] = cat_and_dog(b"two")
    second = hashlib.sha256(files["/photos.zip"]).hexdigest()
    message = download(source, fails=True)
    assert f"SHA-256 is {second}, and {first} is expected" in message
    assert f"remove its line from {project / 'data/archives.sha256'}" in message
    assert photos_of(project)["Cat/0.jpg"] == b"one"
    assert sha256_recorded(project) == {source: first}

    download(source, sha256=second)  # which means the other file
    assert photos_of(project)["Cat/0.jpg"] == b"two"
    assert sha256_recorded(project) == {source: second}
    assert "is that of download.sha256" in download(source, fails=True, sha256="0" * 64)


def test_a_damaged_record(project: Path, download: Download) -> None:
    (project / "data").mkdir()
    (project / "data/archives.sha256").write_text("what?\n")
    assert "archives.sha256 has a line that is not a SHA-256" in download("http://127.0.0.1:1/photos.zip", fails=True)


def test_git_does_not_ignore_the_record() -> None:
    """It does its work in other clones once it is committed, and DVC may not remove it as a stage's output."""
    assert run(ROOT, "git", "check-ignore", "data/archives.sha256", check=False).returncode == 1
    assert "archives.sha256" not in (ROOT / "dvc.yaml").read_text()


# The Hugging Face hub: its own library, which reads its settings once a process, against a local hub


@pytest.fixture
def hub(tmp_path: Path, direct: None) -> Iterator[tuple[MisbehavingServer, dict[str, str]]]:
    """A hub with two Parquet files of the data set, and the environment that leads to it."""
    with serve(b"") as server:
        put(server, tmp_path, "a" * 40, [[os.urandom(40_000) for _ in range(4)], [os.urandom(40_000) for _ in range(2)]])
        address = server.address
        yield server, {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT)}


def put(server: MisbehavingServer, folder: Path, commit: str, photos: list[list[bytes]]) -> None:
    """Have the hub serve photos, half cats and half dogs in each file, as a commit."""
    files: list[dict[str, Any]] = [{"type": "file", "path": "README.md", "size": 4, "oid": "0" * 40}]
    for number, contents in enumerate(photos):
        name = f"data/train-0000{number}-of-0000{len(photos)}.parquet"
        half = len(contents) // 2
        content = hub_parquet(folder / name, list(contents), [0] * half + [1] * half).read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        lfs = {"oid": sha256, "sha256": sha256, "size": len(content), "pointerSize": 134}
        files.append({"type": "file", "path": name, "size": len(content), "oid": "1" * 40, "lfs": lfs})
        server.files[f"/datasets/{HUB_DATASET}/resolve/{commit}/{name}"] = content
    server.headers = {"X-Repo-Commit": commit}
    siblings = [{"rfilename": file["path"]} | file for file in files]
    server.files[f"/api/datasets/{HUB_DATASET}"] = json.dumps({"id": HUB_DATASET, "sha": commit, "siblings": siblings}).encode()
    server.files[f"/api/datasets/{HUB_DATASET}/tree/{commit}"] = json.dumps(files).encode()


def from_hub(project: Path, environment: dict[str, str], *, fails: bool = False) -> str:
    """Run the documented command; what it printed, which is one message where it fails."""
    set_params(project, {"download.source": "huggingface"})
    done = run(project, "python", "-m", "pipeline", "download", check=False, **environment)
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed
    assert (done.returncode, printed.count("error: ")) == ((1, 1) if fails else (0, 0)), printed
    return printed


def test_photos_from_the_hub(hub: tuple[MisbehavingServer, dict[str, str]], project: Path, tmp_path: Path) -> None:
    server, environment = hub
    printed = from_hub(project, environment)
    assert sorted(photos_of(project)) == ["cat/0.jpg", "cat/1.jpg", "cat/4.jpg", "dog/2.jpg", "dog/3.jpg", "dog/5.jpg"]
    assert {len(photo) for photo in photos_of(project).values()} == {40_000}
    assert "6 files of 2 classes (layout: labels.csv): cat 3, dog 3" in printed
    assert len(sha256_recorded(project)) == 2

    server.requests.clear()
    from_hub(project, environment)
    assert not [path for path, _ in server.requests if "parquet" in path]  # what is there is not asked for again

    put(server, tmp_path, "b" * 40, [[os.urandom(100) for _ in range(4)]] * 2)
    printed = from_hub(project, environment, fails=True)
    assert "train-00000-of-00002.parquet has the SHA-256" in printed
    assert "remove its line from" in printed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>log in first</html>", "JSON"),
        (b'{"id": "", "sha": "%s"}' % (b"a" * 40), "has no Parquet files at its commit aaaa"),
        (401, f"{HUB_DATASET} could not be downloaded from http://127.0.0.1:.*401"),
        ("http://127.0.0.1:1", f"{HUB_DATASET} could not be downloaded from http://127.0.0.1:1: .*refused"),
    ],
    ids=["a page", "no Parquet", "no access", "no network"],
)
def test_a_hub_that_cannot_be_had(
    hub: tuple[MisbehavingServer, dict[str, str]], project: Path, content: bytes | int | str, message: str
) -> None:
    server, environment = hub
    if isinstance(content, bytes):
        server.files[f"/api/datasets/{HUB_DATASET}"] = content
    elif isinstance(content, int):
        server.answers = [Answer(content)] * 9
    else:
        environment["HF_ENDPOINT"] = content
    printed = from_hub(project, environment, fails=True)
    assert re.search(message, printed)
    assert "set download.source to the path" in printed


def test_a_file_that_is_not_what_the_hub_states(hub: tuple[MisbehavingServer, dict[str, str]], project: Path) -> None:
    server, environment = hub
    path = f"/datasets/{HUB_DATASET}/resolve/{'a' * 40}/data/train-00001-of-00002.parquet"
    server.files[path], right = bytes(len(server.files[path])), server.files[path]
    printed = from_hub(project, environment, fails=True)
    assert f"and the hub states {hashlib.sha256(right).hexdigest()}: remove it and run again" in printed
    server.files[path] = right
    Path(printed.split("error: ")[1].split(" has the SHA-256")[0]).unlink()
    from_hub(project, environment)
    assert len(photos_of(project)) == 6


# Kaggle

KAGGLE = {"train/cat.0.jpg": os.urandom(2**20), "train/cat.1.jpg": os.urandom(2**20), "train/dog.0.jpg": b"dog"}


def test_kaggles_whole_download_holds_the_photos_in_a_zip_inside(project: Path, download: Download) -> None:
    whole = {"train.zip": zipped(KAGGLE), "test1.zip": b"not asked for", "sampleSubmission.csv": b"id,label"}
    Path("dogs-vs-cats.zip").write_bytes(zipped(whole))
    download("dogs-vs-cats.zip")
    assert set(photos_of(project)) == {"Cat/0.jpg", "Cat/1.jpg", "Dog/0.jpg"}
    assert os.listdir("data") == ["raw"]


def test_a_damaged_zip_inside(download: Download) -> None:
    Path("dogs-vs-cats.zip").write_bytes(zipped({"train.zip": b"PK\x03\x04 and no more"}))
    assert "train.zip is damaged" in download("dogs-vs-cats.zip", fails=True)
    assert os.listdir("data") == []


def test_kaggle_without_its_library(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    assert "uv sync --inexact --extra kaggle" in download("kaggle", fails=True)


@pytest.fixture
def kaggle(tmp_path: Path, direct: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[MisbehavingServer]:
    """A server that calls itself Kaggle, behind a proxy that leads nowhere else, and no token."""
    with serve_https(b"", ["api.kaggle.com"], tmp_path) as (server, authority), proxy_to(server) as proxy:
        server.files["/files/train.zip"] = zipped(KAGGLE)
        server.headers = {"Accept-Ranges": "bytes"}
        monkeypatch.setenv("https_proxy", proxy.url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
        for name, folder in {"HOME": "home", "KAGGLE_CONFIG_DIR": "home", "KAGGLEHUB_CACHE": "cache"}.items():
            monkeypatch.setenv(name, str(tmp_path / folder))
        for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
            monkeypatch.delenv(name, raising=False)
        yield server


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # kagglehub closes no broken connection
def test_photos_from_kaggle(
    kaggle: MisbehavingServer, project: Path, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through kagglehub: without a token, without the rules accepted, with a connection that breaks, and then whole."""
    assert "https://www.kaggle.com/settings/api" in download("kaggle", fails=True)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "0" * 32)
    kaggle.answers = [Answer(403)]
    assert "kaggle.com/competitions/dogs-vs-cats/rules" in download("kaggle", fails=True)

    moved = Answer(302, {"Location": "/files/train.zip?signed=1"})
    kaggle.answers = [moved, Answer(after=3 * 2**19, cut=True)]
    assert "train.zip could not be downloaded from Kaggle" in download("kaggle", fails=True)
    kaggle.answers = [moved]
    download("kaggle")
    assert f"bytes={2**20}-" in kaggle.asked()
    assert set(photos_of(project)) == {"Cat/0.jpg", "Cat/1.jpg", "Dog/0.jpg"}
    sha256 = hashlib.sha256(kaggle.files["/files/train.zip"]).hexdigest()
    assert sha256_recorded(project) == {"https://www.kaggle.com/c/dogs-vs-cats/train.zip": sha256}
