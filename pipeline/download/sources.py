"""Sources of photos: the published archive, an http(s) address, the Hugging Face hub, Kaggle, or what lies on this disk.

The hubs' own libraries download, each into its own cache. An address is fetched into a folder that the caller clears away: what
has arrived lies in `<destination>.part`, and `<destination>.part.json` names the version of the file that it is a part of (ETag
or date), so that a later process continues after a kill, and starts again where the file has changed on the server. The SHA-256
of everything downloaded is recorded once it is of use (as `sha256sum` writes it, a line an address); later downloads must have
it.
"""

import hashlib
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from pipeline.errors import PipelineError
from pipeline.files import cannot_write, check_room, fsync, megabytes, sha256_of, write_atomically
from pipeline.progress import progress, say

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
    `sha256` is expected instead of the recorded one. A PipelineError says that the source cannot be had, has another SHA-256,
    or is Kaggle without its library or a token.
    """
    if source == "huggingface":
        return _from_huggingface(record, sha256)
    if source == "kaggle":
        return _from_kaggle(record, sha256)
    return _from_address(MICROSOFT_URL if source == "microsoft" else source, folder, record, sha256)


def local(path: Path, sha256: str | None = None) -> Source:
    """A source on this disk. A PipelineError says that it does not exist, or does not have the expected SHA-256."""
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


# Some sites refuse the names that HTTP libraries give themselves.
USER_AGENT = "Mozilla/5.0 (compatible; cats-and-dogs-transfer/0.1)"
_CHUNK_BYTES = 2**16
_PROGRESS_BYTES = 2**20  # an attempt that brings this much before it breaks off does not count as a failed one
ATTEMPTS = 5  # in a row that may bring next to nothing
BACKOFF, _LONGEST_WAIT = 1.0, 120.0  # seconds before the second attempt, doubled before each further one, and at most
TIMEOUTS = 10.0, 60.0  # seconds to wait for a connection, and for any next bytes
_TEMPORARY = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses after which another attempt may succeed


class _Failure(Exception):
    """A failed attempt. `final`: another one is of no use; `wait`: seconds that the server asked to wait."""

    def __init__(self, reason: str, *, final: bool = False, wait: float = 0) -> None:
        super().__init__(reason)
        self.final, self.wait = final, wait


def fetch(url: str, destination: Path, *, sha256: str | None = None, hint: str = "") -> None:
    """Download a file; the destination appears whole and verified, or not at all. Proxies are taken from the environment.

    A destination that has the expected `sha256` already, in lower-case hexadecimal, is left as it is. A PipelineError says that
    the file could not be had, and ends with `hint`, or that the disk is too small, or a file cannot be written.
    """
    download = _Download(url, destination, sha256)
    try:
        if destination.is_file() and sha256 in (None, sha256_of(destination)):
            return
        destination.parent.mkdir(parents=True, exist_ok=True)
        download.run()
    except _Failure as failure:
        lines = [f"{url} could not be downloaded: {failure}"]
        if download.continues():
            lines.append(f"{megabytes(download.arrived())} have arrived in {download.part}; the next run continues from there.")
        raise PipelineError("\n".join([*lines, hint]).rstrip()) from failure
    except OSError as error:  # of the disk: those of the network are failures
        raise cannot_write(destination, error) from error


class _Download:
    def __init__(self, url: str, destination: Path, sha256: str | None) -> None:
        self.url, self.destination, self.sha256 = url, destination, sha256
        self.part = destination.with_name(f"{destination.name}.part")
        # JSON: the address, the version as If-Range takes it, and the size in bytes (null where it is not known).
        self.note = destination.with_name(f"{destination.name}.part.json")

    def arrived(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def continues(self) -> tuple[str, int | None] | None:
        """Version and size of the file that the part belongs to, where the download can continue from it."""
        try:
            url, version, total = json.loads(self.note.read_bytes())
        except (FileNotFoundError, ValueError, TypeError):
            return None
        fits = 0 < self.arrived() <= (total or self.arrived())
        return (version, total) if url == self.url and version and fits else None

    def dropped(self, reason: str, *, final: bool = False) -> _Failure:
        """Forget what has arrived; the failure to raise."""
        self.note.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)
        return _Failure(reason, final=final)

    def run(self) -> None:
        """Try until the file is there; raises the last attempt's `_Failure`."""
        most, failed = self.arrived(), 0
        while True:
            try:
                return self._attempt()
            except _Failure as failure:
                # Compared with the most there ever was: a server that cannot resume must not keep us for ever.
                failed = 0 if self.arrived() >= most + _PROGRESS_BYTES else failed + 1
                most = max(most, self.arrived())
                wait = max(failure.wait, min(BACKOFF * 2 ** max(failed - 1, 0), _LONGEST_WAIT))
                if failure.final or failed >= ATTEMPTS or wait > _LONGEST_WAIT:
                    raise
                say(f"{self.url}: {failure}; trying again in {wait:.0f} s")
            time.sleep(wait)

    def _attempt(self) -> None:
        known = self.continues()
        if known is None or known[1] != self.arrived():  # equal after a kill at the very end
            try:
                self._receive(known)
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                final = isinstance(error, (ValueError, requests.TooManyRedirects))  # a ValueError: no such address can be
                raise _Failure(f"{type(error).__name__}: {_innermost(error)}", final=final) from error
        if self.sha256 and (found := sha256_of(self.part)) != self.sha256:
            # Where two halves were joined, the whole may yet be right.
            raise self.dropped(f"the file's SHA-256 is {found}, and {self.sha256} is expected", final=known is None)
        fsync(self.part)
        self.part.replace(self.destination)
        self.note.unlink(missing_ok=True)

    def _receive(self, known: tuple[str, int | None] | None) -> None:
        """Append what is missing to the part, or start again where there is none to continue."""
        # identity: so that ranges and sizes mean the file itself
        headers = {"Accept-Encoding": "identity", "User-Agent": USER_AGENT}
        if known:
            headers |= {"Range": f"bytes={self.arrived()}-", "If-Range": known[0]}
        hooks = {"response": refuse_step_down}
        with requests.get(self.url, headers=headers, stream=True, timeout=TIMEOUTS, hooks=hooks) as response:
            if response.status_code == 416:
                raise self.dropped("the server does not have the range that was asked for")
            if response.status_code not in (200, 206):
                seconds = response.headers.get("Retry-After", "")
                wait = float(seconds) if seconds.isdecimal() else 0
                reason = f"HTTP {response.status_code} {response.reason}, Retry-After {wait:.0f} s"
                raise _Failure(reason, final=response.status_code not in _TEMPORARY, wait=wait)
            if response.status_code == 206:
                total = self._checked_range(response, known)
            else:
                length = response.headers.get("Content-Length", "")
                total = int(length) if length.isdecimal() else None
                self.part.write_bytes(b"")  # before the note, which must never name another version than the part's
                self.note.write_text(json.dumps([self.url, _version(response), total]), encoding="utf-8")
            self._append(response, total)

    def _checked_range(self, response: requests.Response, known: tuple[str, int | None] | None) -> int | None:
        """The size of the whole file, where the response begins exactly where the part ends."""
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if known is None or found is None or int(found[1]) != self.arrived():
            raise self.dropped("the server sent another range than was asked for")
        total = known[1] if found[2] == "*" else int(found[2])
        if total != (known[1] or total) or _version(response) not in ("", known[0]):
            raise self.dropped("the file changed on the server")
        return total

    def _append(self, response: requests.Response, total: int | None) -> None:
        arrived = self.arrived()
        check_room(self.destination.parent, (total or 0) - arrived, f"download {response.url}")
        description = f"downloading {self.destination.name}"
        with progress(description, total, unit="bytes", done=arrived) as advance, self.part.open("ab") as file:
            for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
                arrived += file.write(chunk)
                advance(len(chunk))
                if total is not None and arrived > total:
                    raise self.dropped(f"more than {total:,} bytes came")
        if total is not None and arrived < total:
            raise _Failure(f"only {arrived:,} bytes of {total:,} came")


def refuse_step_down(response: requests.Response, **_: Any) -> None:
    """Hook of requests: refuse a redirect from HTTPS to anything else before it is followed; raises an InvalidSchema."""
    target = urljoin(response.url, response.headers.get("Location", ""))
    if response.is_redirect and response.url.startswith("https:") and not target.startswith("https:"):
        response.close()
        raise requests.exceptions.InvalidSchema(f"it redirects from HTTPS to {target}, which is refused")


def _innermost(error: BaseException) -> BaseException:
    """What failed at last: requests and urllib3 wrap it several times over, and quote the wrapped each time."""
    inner = [*error.args, getattr(error, "reason", None), getattr(error, "original_error", None)]
    return next((_innermost(one) for one in inner if isinstance(one, Exception)), error)


def _version(response: requests.Response) -> str:
    """What If-Range takes: a strong ETag, or else a date."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
