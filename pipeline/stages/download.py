"""Stage 1, download: the photos as published, in data/raw/PetImages/{Cat,Dog}/N.jpg.

Run it with `dvc repro download`, or bare with `python -m pipeline download`. Settings: `download` in params.yaml.
"""

import hashlib
import shutil
import time
from collections import Counter
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pipeline.data.archive import unpack_photos
from pipeline.data.drawn.petimages import draw_petimages
from pipeline.data.fetch import fetch
from pipeline.errors import PipelineError
from pipeline.files import replace_folder, sha256_of
from pipeline.params import Download, Params
from pipeline.paths import DOWNLOADS, METRICS, PLOTS, RAW, of_person
from pipeline.progress import say
from pipeline.results import write_csv, write_json

MICROSOFT_URL = "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip"
MICROSOFT_BYTES = 824_887_076
MICROSOFT_SHA256 = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"
OFFLINE_WAYS = (
    "Without a network: set download.source to the path of a zip, tar or folder that you have, or to drawn, which needs none."
)


def run(params: Params) -> None:
    """Make data/raw, whole or not at all."""
    started = time.monotonic()
    settings = params.download
    if settings.source == "drawn":
        _draw(settings)
        sha256 = None
    else:
        url = _url(settings.source)
        archive = of_person(settings.source) if url is None else _fetched(url, settings)
        sha256 = _check_sha256(archive, settings)
        unpacked = unpack_photos(archive, RAW)
        say(f"{unpacked.files:,} files of {len(unpacked.classes)} classes; {unpacked.ignored} others left out")
        if url is not None:
            shutil.rmtree(archive.parent)
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


def _draw(settings: Download) -> None:
    if settings.sha256 is not None:
        raise PipelineError("download.sha256 is set, but drawn photos come from no archive. Set it to null.")
    fresh = RAW.with_name(f".{RAW.name}.drawing")
    shutil.rmtree(fresh, ignore_errors=True)
    draw_petimages(fresh, num_photos=settings.drawn_photos, seed=settings.seed)
    replace_folder(fresh, RAW)


def _url(source: str) -> str | None:
    """The address that a source stands for, or None where it is a path."""
    if source == "microsoft":
        return MICROSOFT_URL
    return source if source.startswith(("http://", "https://")) else None


def _fetched(url: str, settings: Download) -> Path:
    """The archive behind an address, downloaded; an earlier, interrupted download of the same address goes on."""
    # In a folder of the address, so that a file of the same name from another one is never taken for it.
    name = PurePosixPath(urlsplit(url).path).name.strip(".") or "archive"
    target = DOWNLOADS / hashlib.sha256(url.encode()).hexdigest()[:16] / name
    known = url == MICROSOFT_URL
    size, sha256 = (MICROSOFT_BYTES, MICROSOFT_SHA256) if known else (None, settings.sha256)
    fetch([url], target, size=size, sha256=sha256, otherwise=OFFLINE_WAYS)
    return target


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
