"""Stage 1, download: the photos as published, in data/raw/PetImages/{Cat,Dog}/N.jpg.

Run it with `dvc repro download`, or bare with `python -m pipeline download`. Settings: `download` in params.yaml.
Where the photos come with splits, data/raw/splits.csv lists them. Of what is downloaded, data/archives.sha256 records the
SHA-256 on first use, and every later download is held against it.
"""

import hashlib
import shutil
import time
from collections import Counter
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pipeline.cores import worker_count
from pipeline.download.archive import unpack_photos
from pipeline.download.checksums import record_sha256, recorded_sha256
from pipeline.download.drawn.petimages import draw_petimages
from pipeline.download.fetch import fetch
from pipeline.download.hub import hub_files
from pipeline.download.kaggle_client import download_from_kaggle
from pipeline.errors import PipelineError
from pipeline.files import replace_folder, sha256_of, write_csv, write_json
from pipeline.params import Download, Params
from pipeline.paths import ARCHIVES, DOWNLOADS, METRICS, PLOTS, RAW, project_root, user_path
from pipeline.progress import say

MICROSOFT_URL = "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip"
MICROSOFT_BYTES = 824_887_076
MICROSOFT_SHA256 = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"
HUB_DATASET = "microsoft/cats_vs_dogs"
KAGGLE_COMPETITION, KAGGLE_FILE = "dogs-vs-cats", "train.zip"
OFFLINE_WAYS = (
    "Without a network: set download.source to the path of a zip, tar or folder that you have, or to drawn, which needs none."
)


def run(params: Params) -> None:
    """Make data/raw, whole or not at all."""
    started = time.monotonic()
    settings = params.download
    sha256 = None
    if settings.source == "drawn":
        _draw(settings, max(worker_count(params.runtime.workers), 1))
    else:
        archive, downloaded = _archive(settings)
        sha256 = _check_sha256(archive, settings)
        unpacked = unpack_photos(archive, RAW)
        say(f"{unpacked.files:,} files of {len(unpacked.classes)} classes; {unpacked.ignored} others left out")
        if unpacked.splits:
            say("They come with splits: " + ", ".join(f"{count:,} in {split}" for split, count in unpacked.splits.items()))
        if downloaded:
            shutil.rmtree(archive if archive.is_dir() else archive.parent)
    files = sorted(path for path in RAW.glob("PetImages/*/*") if path.is_file())
    write_csv(PLOTS / "downloaded.csv", _counts(files))
    write_json(
        METRICS / "download.json",
        {
            "files": len(files),
            "megabytes": sum(path.stat().st_size for path in files) / 1e6,
            "archive_sha256": sha256,
            "seconds": time.monotonic() - started,
        },
    )


def _draw(settings: Download, workers: int) -> None:
    if settings.sha256 is not None:
        raise PipelineError("download.sha256 is set, but drawn photos come from no archive. Set it to null.")
    fresh = RAW.with_name(f".{RAW.name}.drawing")
    shutil.rmtree(fresh, ignore_errors=True)
    draw_petimages(fresh, num_photos=settings.drawn_photos, seed=settings.seed, workers=workers)
    replace_folder(fresh, RAW)


def _archive(settings: Download) -> tuple[Path, bool]:
    """Where the source lies on this disk, and whether it was downloaded to there; an interrupted download goes on."""
    if settings.source == "huggingface":
        return _from_hub(settings), True
    if settings.source == "kaggle":
        return _from_kaggle(settings), True
    if settings.source == "microsoft":
        return _from_address(MICROSOFT_URL, settings), True
    if settings.source.startswith(("http://", "https://")):
        return _from_address(settings.source, settings), True
    return user_path(settings.source), False


def _from_address(url: str, settings: Download) -> Path:
    # In a folder of the address, so that a file of the same name from another one is never taken for it.
    name = PurePosixPath(urlsplit(url).path).name.strip(".") or "archive"
    target = _folder_of(url) / name
    size, stated = (MICROSOFT_BYTES, MICROSOFT_SHA256) if url == MICROSOFT_URL else (None, None)
    _fetch_known([url], target, address=url, size=size, stated=stated, wanted=settings.sha256)
    return target


def _from_hub(settings: Download) -> Path:
    if settings.sha256 is not None:
        raise PipelineError("download.sha256 is set, but the hub has several files, each with its own. Set it to null.")
    folder = _folder_of(HUB_DATASET)
    files = hub_files(HUB_DATASET, folder, otherwise=OFFLINE_WAYS)
    for stale in set(folder.glob("*.parquet")) - {folder / file.name for file in files}:
        stale.unlink()  # of an earlier commit, whose download was interrupted
    for file in files:
        address = f"https://huggingface.co/datasets/{HUB_DATASET}/{file.path}"
        _fetch_known([file.url], folder / file.name, address=address, size=file.size, stated=file.sha256)
    return folder


def _from_kaggle(settings: Download) -> Path:
    address = f"https://www.kaggle.com/c/{KAGGLE_COMPETITION}/{KAGGLE_FILE}"
    archive = download_from_kaggle(KAGGLE_COMPETITION, KAGGLE_FILE, _folder_of(address))
    record, found = project_root() / ARCHIVES, sha256_of(archive)
    expected = settings.sha256 or recorded_sha256(record, address)
    if expected not in (None, found):
        shutil.rmtree(archive.parent)
        raise PipelineError(f"{KAGGLE_FILE} has the sha256 {found}, and {expected} is expected. {_source_of(settings.sha256)}")
    record_sha256(record, address, found)
    return archive


def _fetch_known(
    urls: list[str], target: Path, *, address: str, size: int | None, stated: str | None, wanted: str | None = None
) -> None:
    """Fetch a file whose SHA-256 is the one that is wanted, else the one of its first download, else the one that is stated."""
    record = project_root() / ARCHIVES
    recorded = recorded_sha256(record, address)
    if not wanted and recorded and stated not in (None, recorded):
        raise PipelineError(f"{address} now has the sha256 {stated}, and {recorded} is expected. {_source_of(wanted)}")
    expected = wanted or recorded or stated
    otherwise = f"{_source_of(wanted)} {OFFLINE_WAYS}" if wanted or recorded else OFFLINE_WAYS
    fetch(urls, target, size=size, sha256=expected, otherwise=otherwise)
    record_sha256(record, address, expected or sha256_of(target))  # fetch has held it against the expected one


def _source_of(wanted: str | None) -> str:
    """Where the expected SHA-256 comes from, and how to take another file."""
    if wanted:
        return "The expected SHA-256 is that of download.sha256."
    return f"The expected SHA-256 is that of the first download: to take another file, remove its line from {ARCHIVES}."


def _folder_of(address: str) -> Path:
    return DOWNLOADS / hashlib.sha256(address.encode()).hexdigest()[:16]


def _check_sha256(archive: Path, settings: Download) -> str | None:
    """The archive's hash, held against the one in params.yaml; a folder has none."""
    if not archive.is_file():
        if settings.sha256 is not None and archive.is_dir():
            raise PipelineError(f"download.sha256 is set, but {archive} is a folder, which has none. Set it to null.")
        return None
    sha256 = sha256_of(archive)
    if settings.sha256 not in (None, sha256):
        raise PipelineError(
            f"{archive} has the sha256 {sha256}, but download.sha256 is {settings.sha256}: another archive, or a damaged one."
        )
    return sha256


def _counts(files: list[Path]) -> list[dict[str, str | int]]:
    counts = Counter(path.parent.name for path in files)
    return [{"class": name, "files": count} for name, count in sorted(counts.items())]
