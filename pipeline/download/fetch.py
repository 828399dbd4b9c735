"""Resuming HTTP download of one large file: `fetch(url, destination, sha256=...)`.

What has arrived lies in `<destination>.part`, and `<destination>.part.json` names the version of the file that it is a part of
(ETag or date), so that a later process continues after a kill, and starts again where the file has changed on the server.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from pydantic import BaseModel, ValidationError

from pipeline.errors import PipelineError
from pipeline.files import cannot_write, check_room, fsync, megabytes, sha256_of
from pipeline.progress import progress, say

_CHUNK_BYTES = 2**16
_PROGRESS_BYTES = 2**20  # an attempt that brings this much before it breaks off does not count as a failed one
_LONGEST_WAIT = 120.0  # seconds between two attempts
_TEMPORARY = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses after which another attempt may succeed
_BAD_ADDRESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
    requests.TooManyRedirects,
)


class _Failure(Exception):
    """A failed attempt. `final`: another one is of no use; `wait`: seconds that the server asked to wait."""

    def __init__(self, reason: str, *, final: bool = False, wait: float = 0) -> None:
        super().__init__(reason)
        self.final, self.wait = final, wait


class _HttpsSession(requests.Session):
    """A session that follows no redirect from HTTPS to anything else."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """The address that a response redirects to, if it does; requests asks for it before it follows."""
        location = super().get_redirect_target(resp)
        target = urljoin(resp.url, location or "")
        if urlsplit(resp.url).scheme == "https" and urlsplit(target).scheme != "https":
            resp.close()
            raise _Failure(f"it redirects from HTTPS to {target}, which is refused", final=True)
        return location


class _Version(BaseModel, frozen=True, extra="forbid"):
    """One version of the file at an address: `validator` is what If-Range takes, `total` the size in bytes, where known."""

    url: str
    validator: str
    total: int | None


def fetch(
    url: str,
    destination: Path,
    *,
    sha256: str | None = None,
    hint: str = "",
    attempts: int = 5,
    backoff: float = 1.0,
    timeouts: tuple[float, float] = (10.0, 60.0),
) -> None:
    """Download a file; the destination appears whole and verified, or not at all. Proxies are taken from the environment.

    Args:
        url: http:// or https://.
        destination: where the file goes; left as it is where it has the expected SHA-256 already.
        sha256: the expected SHA-256, in hexadecimal.
        hint: what a person can do where the download fails; ends the error's text.
        attempts: how many attempts in a row may bring next to nothing.
        backoff: seconds before the second attempt; doubled before each further one.
        timeouts: seconds to wait for a connection, and for any next bytes.

    Raises:
        PipelineError: the file could not be had, the disk is too small, or a file cannot be written.
    """
    started = time.monotonic()
    try:
        with _HttpsSession() as session:
            session.headers["Accept-Encoding"] = "identity"  # so that ranges and sizes mean the file itself
            download = _Download(session, url, destination, sha256 and sha256.lower(), timeouts)
            if not destination.is_file() or download.fault(destination):
                destination.parent.mkdir(parents=True, exist_ok=True)
                download.run(attempts, backoff)
    except _Failure as failure:
        lines = [f"{url} could not be downloaded ({time.monotonic() - started:.0f} s): {failure}"]
        if download.version():
            lines.append(f"{megabytes(download.arrived())} have arrived in {download.part}; the next run continues from there.")
        raise PipelineError("\n".join([*lines, hint]).rstrip()) from failure
    except OSError as error:  # of the disk: those of the network are failures
        raise cannot_write(destination, error) from error


@dataclass(frozen=True)
class _Download:
    session: requests.Session
    url: str
    destination: Path
    sha256: str | None
    timeouts: tuple[float, float]

    @property
    def part(self) -> Path:
        return self.destination.with_name(f"{self.destination.name}.part")

    @property
    def note(self) -> Path:
        return self.destination.with_name(f"{self.destination.name}.part.json")

    def arrived(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def version(self) -> _Version | None:
        """The version that the part belongs to, where the download can continue from it."""
        try:
            version = _Version.model_validate_json(self.note.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        total = self.arrived() if version.total is None else version.total
        return version if version.url == self.url and version.validator and 0 < self.arrived() <= total else None

    def dropped(self, reason: str, *, final: bool = False) -> _Failure:
        """Forget what has arrived; the failure to raise."""
        self.note.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)
        return _Failure(reason, final=final)

    def fault(self, path: Path) -> str | None:
        """What distinguishes `path` from the expected file, or None where nothing does."""
        found = sha256_of(path) if self.sha256 else None
        return None if found == self.sha256 else f"the file's SHA-256 is {found}, and {self.sha256} is expected"

    def run(self, attempts: int, backoff: float) -> None:
        """Try until the file is there; raises the last attempt's `_Failure`."""
        most, failed = self.arrived(), 0
        while True:
            try:
                return self._attempt()
            except _Failure as failure:
                # Compared with the most there ever was: a server that cannot resume must not keep us for ever.
                failed = 0 if self.arrived() >= most + _PROGRESS_BYTES else failed + 1
                most = max(most, self.arrived())
                if failure.final or failed >= attempts:
                    raise
                wait = min(max(failure.wait, backoff * 2 ** max(failed - 1, 0)), _LONGEST_WAIT)
                say(f"{self.url}: {failure}; trying again in {wait:.0f} s")
            time.sleep(wait)

    def _attempt(self) -> None:
        version = self.version()
        if version is None or version.total != self.arrived():  # equal after a kill at the very end
            self._receive(version)
        if fault := self.fault(self.part):
            raise self.dropped(fault, final=version is None)  # where two halves were joined, the whole may yet be right
        fsync(self.part)
        self.part.replace(self.destination)
        self.note.unlink(missing_ok=True)

    def _receive(self, version: _Version | None) -> None:
        """Append what is missing of a version to the part, or start again where there is none to continue."""
        headers = {"Range": f"bytes={self.arrived()}-", "If-Range": version.validator} if version else {}
        with _network():
            response = self.session.get(self.url, headers=headers, stream=True, timeout=self.timeouts)
        with response:
            self._check_status(response)
            if response.status_code == HTTPStatus.PARTIAL_CONTENT:
                total = self._checked_range(response, version)
            else:
                length = response.headers.get("Content-Length", "")
                total = int(length) if length.isdecimal() else None
                self.part.write_bytes(b"")  # before the note, which must never name another version than the part's
                note = _Version(url=self.url, validator=_validator(response), total=total)
                self.note.write_text(note.model_dump_json(), encoding="utf-8")
            self._append(response, total)

    def _check_status(self, response: requests.Response) -> None:
        status = response.status_code
        if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            return
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise self.dropped("the server does not have the range that was asked for")
        seconds = response.headers.get("Retry-After", "")
        wait = float(seconds) if seconds.isdecimal() else 0
        asked = f", asking to wait {wait:.0f} s" if wait > _LONGEST_WAIT else ""
        final = status not in _TEMPORARY or wait > _LONGEST_WAIT
        raise _Failure(f"HTTP {status} {response.reason}{asked}", final=final, wait=wait)

    def _checked_range(self, response: requests.Response, version: _Version | None) -> int | None:
        """The size of the whole file, where the response begins exactly where the part ends."""
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if version is None or found is None or int(found[1]) != self.arrived():
            raise self.dropped("the server sent another range than was asked for")
        total = version.total if found[2] == "*" else int(found[2])
        if total != (version.total or total) or _validator(response) not in ("", version.validator):
            raise self.dropped("the file changed on the server")
        return total

    def _append(self, response: requests.Response, total: int | None) -> None:
        arrived = self.arrived()
        check_room(self.destination.parent, (total or 0) - arrived, f"download {response.url}")
        with (
            progress(f"downloading {self.destination.name}", total, unit="bytes", done=arrived) as advance,
            self.part.open("ab") as file,
            _network(),
        ):
            for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
                arrived += file.write(chunk)
                advance(len(chunk))
                if total is not None and arrived > total:
                    raise self.dropped(f"more than {total:,} bytes came")
        if total is not None and arrived < total:
            raise _Failure(f"only {arrived:,} bytes of {total:,} came")


@contextmanager
def _network() -> Iterator[None]:
    """Report errors of requests and urllib3 by their root, which both wrap several times."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        root: BaseException = error
        while (cause := root.__cause__ or root.__context__) is not None:
            root = cause
        text = getattr(root, "strerror", None) or str(root)
        raise _Failure(f"{type(error).__name__}: {text}", final=isinstance(error, _BAD_ADDRESS)) from error


def _validator(response: requests.Response) -> str:
    """What If-Range takes: a strong ETag, or else a date."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
