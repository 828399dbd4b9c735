"""Sources of photos: the published archive, an http(s) address, the Hugging Face hub, Kaggle, or what lies on this disk.

The hubs' own libraries download, each into its own cache. An address is fetched into a folder that the caller clears away. The
SHA-256 of everything downloaded is recorded once it is of use (as `sha256sum` writes it, a line an address); later
downloads must have it.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

from pipeline.download.fetch import fetch
from pipeline.errors import PipelineError
from pipeline.files import cannot_write, sha256_of, write_atomically

MICROSOFT_URL = "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip"
MICROSOFT_SHA256 = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"
HUB_DATASET = "microsoft/cats_vs_dogs"
KAGGLE_COMPETITION, KAGGLE_FILE = "dogs-vs-cats", "train.zip"
OFFLINE_HINT = (
    "Without a network: set download.source to the path of a zip, tar or folder that you have, or to drawn, which needs none."
)


class Source(NamedTuple):
    """An archive or a folder on this disk, and the archive's SHA-256."""

    path: Path
    sha256: str | None
    downloads: Mapping[str, str] = {}  # address -> SHA-256, to record once the photos are unpacked
    temporary: Path | None = None  # a folder to remove then
    proven: bool = False  # whether its SHA-256 was known before: what is wrong with it then, another download cannot mend


def is_download(source: str) -> bool:
    """Whether a source (`download.source` in params.yaml) is one that `download` gets, not a path."""
    return source in ("microsoft", "huggingface", "kaggle") or source.startswith(("http://", "https://"))


def download(source: str, folder: Path, record: Path, sha256: str | None = None) -> Source:
    """Download a source of which `is_download` is true; what an interrupted download has brought is used.

    Addresses are fetched into `folder`. `record` is the file with the SHA-256 of earlier downloads, which are expected again;
    `sha256` is expected instead of the recorded one.

    Raises:
        PipelineError: the source cannot be had, has another SHA-256, or is Kaggle without its library or a token.
    """
    if source == "huggingface":
        return _from_huggingface(record, sha256)
    if source == "kaggle":
        return _from_kaggle(record, sha256)
    return _from_address(MICROSOFT_URL if source == "microsoft" else source, folder, record, sha256)


def local(path: Path, sha256: str | None = None) -> Source:
    """A source on this disk.

    Raises:
        PipelineError: it does not exist, or does not have the expected SHA-256.
    """
    if not path.exists():
        raise PipelineError(f"{path} does not exist: set download.source to what you have, or to drawn.")
    found = sha256_of(path) if path.is_file() else None
    if sha256 not in (None, found):
        has = f"has the SHA-256 {found}" if found else "is a folder, which has no SHA-256"
        raise PipelineError(f"{path} {has}, and download.sha256 is {sha256}: another archive, or a damaged one.")
    return Source(path, found)


def _from_address(url: str, downloads: Path, record: Path, sha256: str | None) -> Source:
    # In a folder of the address, so that a file of the same name from another one is never taken for it.
    folder = downloads / hashlib.sha256(url.encode()).hexdigest()[:16]
    target = folder / (PurePosixPath(urlsplit(url).path).name.strip(".") or "archive")
    expected = sha256 or _read_record(record).get(url) or (MICROSOFT_SHA256 if url == MICROSOFT_URL else None)
    fetch(url, target, sha256=expected, hint=f"{OFFLINE_HINT} {_origin(record, sha256)}" if expected else OFFLINE_HINT)
    found = _checked(record, url, sha256_of(target), sha256)
    return Source(target, found, {url: found}, temporary=folder, proven=expected is not None)


def _from_huggingface(record: Path, sha256: str | None) -> Source:
    import httpx2
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    if sha256 is not None:
        raise PipelineError("download.sha256 is set, but the hub has several files, each with its own. Set it to null.")
    try:
        info = huggingface_hub.HfApi().dataset_info(HUB_DATASET, files_metadata=True)
        stated = {file.rfilename: file.lfs and file.lfs.sha256 for file in info.siblings or ()}
        files = sorted(name for name in stated if name.endswith(".parquet"))
        folder = huggingface_hub.snapshot_download(HUB_DATASET, repo_type="dataset", revision=info.sha, allow_patterns=files)
    except (httpx2.HTTPError, HfHubHTTPError, EntryNotFoundError, ValueError, LookupError, ConnectionError) as error:
        endpoint = huggingface_hub.constants.ENDPOINT
        raise PipelineError(f"{HUB_DATASET} could not be downloaded from {endpoint}: {error!r}\n{OFFLINE_HINT}") from error
    except OSError as error:
        raise cannot_write(Path(huggingface_hub.constants.HF_HUB_CACHE), error) from error
    if not files:
        raise PipelineError(f"{HUB_DATASET} has no Parquet files at its commit {info.sha}. {OFFLINE_HINT}")
    downloads = {}
    for name in files:
        file = Path(folder, name).resolve()  # the cache's blob, which the snapshot links to
        if (found := sha256_of(file)) != (stated[name] or found):
            raise PipelineError(f"{file} has the SHA-256 {found}, and the hub states {stated[name]}: remove it and run again.")
        address = f"https://huggingface.co/datasets/{HUB_DATASET}/{name}"
        downloads[address] = _checked(record, address, found)
    return Source(Path(folder, files[0]).parent, None, downloads)


def _from_kaggle(record: Path, sha256: str | None) -> Source:
    try:
        import kagglehub
        from kagglehub.exceptions import UnauthenticatedError
    except ModuleNotFoundError as error:
        raise PipelineError("download.source: kaggle needs kagglehub: uv sync --inexact --extra kaggle") from error
    import requests

    try:
        archive = Path(kagglehub.competition_download(KAGGLE_COMPETITION, KAGGLE_FILE))
    except UnauthenticatedError:
        raise PipelineError("Set KAGGLE_API_TOKEN: Kaggle needs a token, of https://www.kaggle.com/settings/api") from None
    except requests.RequestException as error:
        raise PipelineError(f"{KAGGLE_FILE} could not be downloaded from Kaggle: {error}") from error
    except OSError as error:
        raise cannot_write(Path(kagglehub.config.get_cache_folder()), error) from error
    address = f"https://www.kaggle.com/c/{KAGGLE_COMPETITION}/{KAGGLE_FILE}"
    found = _checked(record, address, sha256_of(archive), sha256)
    return Source(archive, found, {address: found})


def record_downloads(record: Path, downloads: Mapping[str, str]) -> None:
    """Add the SHA-256 of downloads, by their addresses, to the record; where they are in it, it is left alone."""
    entries = _read_record(record)
    if downloads.items() - entries.items():
        lines = (f"{value}  {key}\n" for key, value in sorted((entries | dict(downloads)).items()))
        write_atomically(record, "".join(lines).encode())


def _checked(record: Path, address: str, found: str, expected: str | None = None) -> str:
    """The SHA-256 of a download; refuses another one than is expected, or else recorded."""
    wanted = expected or _read_record(record).get(address, found)
    if found != wanted:
        raise PipelineError(f"{address} has the SHA-256 {found}, and {wanted} is expected. {_origin(record, expected)}")
    return found


def _origin(record: Path, expected: str | None) -> str:
    """Where the expected SHA-256 comes from, and how to accept another file."""
    if expected:
        return "The expected SHA-256 is that of download.sha256."
    return f"The expected SHA-256 is that of the first download: to accept another file, remove its line from {record}."


def _read_record(record: Path) -> dict[str, str]:
    """Address -> SHA-256; empty where there is no record."""
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    if odd := [line for line in lines if not re.match(r"[0-9a-f]{64}  .", line)]:
        raise PipelineError(f"{record} has a line that is not a SHA-256 and an address: {odd[0]!r}. Remove the line.")
    return {line[66:]: line[:64] for line in lines}
