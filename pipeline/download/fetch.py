"""Downloading one file over HTTP, through whatever the network does meanwhile.

A download that was cut or killed goes on where it stopped, in a later process too. The destination appears whole and
verified, or not at all.
"""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from pipeline.download.part import Part, Version
from pipeline.errors import PipelineError
from pipeline.files import cannot_write, check_room, megabytes
from pipeline.progress import progress, say

_CHUNK_BYTES = 2**16
_PROGRESS_BYTES = 2**20  # an attempt that brings this much before it breaks off does not count as a failed one
_LONGEST_WAIT = 120.0  # seconds between two attempts
_TRY_AGAIN = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}

_NO_ADDRESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
    requests.TooManyRedirects,
)


class _Failure(Exception):
    """An attempt failed. `final`: another one is of no use; `wait`: seconds that the server asked to wait."""

    def __init__(self, reason: str, *, final: bool = False, wait: float = 0) -> None:
        super().__init__(reason)
        self.final = final
        self.wait = wait


class HttpsSession(requests.Session):
    """A session that follows no redirect from HTTPS to anything else."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """The address that a response redirects to, if it does; requests asks for it before it follows."""
        location = super().get_redirect_target(resp)
        if location is None or urlsplit(resp.url).scheme != "https":
            return location
        target = urljoin(resp.url, location)
        if urlsplit(target).scheme != "https":
            resp.close()
            raise _Failure(f"it redirects from HTTPS to {target}, which is refused", final=True)
        return location


def fetch(
    urls: Sequence[str],
    destination: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    otherwise: str = "",
    attempts: int = 5,
    backoff: float = 1.0,
    timeouts: tuple[float, float] = (10.0, 60.0),
) -> None:
    """Download a file from the first of its addresses that gives it.

    A destination that is there already, with the stated size and SHA-256, is left as it is. Proxies are taken from the
    environment. Interrupted, it leaves `<destination>.part`, from which the next call goes on.

    Args:
        urls: addresses of the same file, in order of preference.
        destination: where the file goes; its folder is made.
        size: what the file must have, in bytes.
        sha256: what the file must have, in hexadecimal.
        otherwise: what a person can do where no address can be reached; ends the error's text.
        attempts: how many attempts in a row that bring next to nothing are made at each address.
        backoff: seconds before the second attempt; doubled before each further one.
        timeouts: seconds to wait for a connection, and for any next bytes.

    Raises:
        PipelineError: no address gave the file, the disk is too small, or a file cannot be written.
    """
    part = Part(destination, size, sha256)
    started = time.monotonic()
    failures = []
    try:
        if destination.is_file() and part.fault(destination) is None:
            return
        destination.parent.mkdir(parents=True, exist_ok=True)
        version = part.version()
        with HttpsSession() as session:
            session.headers["Accept-Encoding"] = "identity"  # so that ranges and sizes mean the file itself
            download = _Download(session, part, attempts, backoff, timeouts)
            # A part is of use at the address that it came from alone, which therefore comes first.
            for url in sorted(urls, key=lambda url: version is None or url != version.url):
                try:
                    return download.persist(url)
                except _Failure as failure:
                    failures.append(f"  {url}: {failure}")
    except OSError as error:  # those of the network have been caught nearer
        raise cannot_write(destination, error) from error
    lines = [f"{destination.name} could not be downloaded, after {time.monotonic() - started:.0f} s:", *failures]
    if part.version():
        lines.append(f"{megabytes(part.arrived())} of it are kept in {part.path}, from where the next run goes on.")
    raise PipelineError("\n".join([*lines, otherwise]).rstrip())


@dataclass(frozen=True)
class _Download:
    session: requests.Session
    part: Part
    attempts: int
    backoff: float
    timeouts: tuple[float, float]

    def persist(self, url: str) -> None:
        """Try one address until the file is there; a `_Failure` tells why the last attempt failed."""
        most, failed = self.part.arrived(), 0
        while True:
            try:
                return self._attempt(url)
            except _Failure as failure:
                arrived = self.part.arrived()
                # Measured against the most there ever was: a server that cannot resume must not keep us for ever.
                failed = 0 if arrived >= most + _PROGRESS_BYTES else failed + 1
                most = max(most, arrived)
                if failure.final or failed >= self.attempts:
                    raise
                wait = min(max(failure.wait, self.backoff * 2 ** max(failed - 1, 0)), _LONGEST_WAIT)
                say(f"{url}: {failure}; trying again in {wait:.0f} s")
            time.sleep(wait)

    def _attempt(self, url: str) -> None:
        version = self.part.version()
        if version is not None and version.url != url:
            version = None
        if version is None or version.total != self.part.arrived():  # equal after a kill at the very end
            self._receive(url, version)
        if fault := self.part.fault(self.part.path):
            self.part.drop()
            # Where two halves were put together, the whole may yet be right.
            raise _Failure(fault, final=version is None)
        self.part.finish()

    def _receive(self, url: str, version: Version | None) -> None:
        """Bring what is missing of a version, or all of the file where there is none to go on from."""
        headers = {}
        if version is not None:
            headers = {"Range": f"bytes={self.part.arrived()}-", "If-Range": version.validator}
        with self._network():
            response = self.session.get(url, headers=headers, stream=True, timeout=self.timeouts)
        with response:
            self._check_status(response)
            if response.status_code == HTTPStatus.PARTIAL_CONTENT:
                total = self._check_range(response, version)
            else:
                total = _content_length(response)
                self._check_size(total)
                self.part.start(Version(url=url, validator=_validator(response), total=total))
            self._write(response, total)

    def _check_status(self, response: requests.Response) -> None:
        status = response.status_code
        if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            return
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.part.drop()
            raise _Failure("the server has no such range, so that what was kept is dropped")
        wait = 0.0
        if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            wait = _retry_after(response)
        reason = f"HTTP {status} {response.reason}".rstrip()
        if wait > _LONGEST_WAIT:
            raise _Failure(f"{reason}, and to be asked again after {wait:.0f} s only", final=True)
        raise _Failure(reason, final=status not in _TRY_AGAIN, wait=wait)

    def _check_range(self, response: requests.Response, version: Version | None) -> int | None:
        """The size of the whole file, where the response goes on exactly where the part ends."""
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if version is None or found is None or int(found[1]) != self.part.arrived():
            self.part.drop()
            raise _Failure("the server sent another range than it was asked for")
        total = version.total if found[2] == "*" else int(found[2])
        if total != (version.total or total) or _validator(response) not in ("", version.validator):
            self.part.drop()
            raise _Failure("the file changed on the server")
        self._check_size(total)
        return total

    def _check_size(self, total: int | None) -> None:
        if None not in (total, self.part.size) and total != self.part.size:
            raise _Failure(f"the file there has {total:,} bytes, and {self.part.size:,} are expected", final=True)

    def _write(self, response: requests.Response, total: int | None) -> None:
        """Append the body of a response to the part, and see that it ends where it should."""
        if total is None:
            total = self.part.size
        arrived = self.part.arrived()
        check_room(self.part.destination.parent, (total or 0) - arrived, f"download {response.url}")
        with (
            progress(f"downloading {self.part.destination.name}", total, unit="bytes") as advance,
            self.part.path.open("ab") as file,
            self._network(),
        ):
            advance(arrived)
            for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
                file.write(chunk)
                arrived += len(chunk)
                advance(len(chunk))
                if total is not None and arrived > total:
                    break
        if total is not None and arrived != total:
            if arrived > total:
                self.part.drop()
            raise _Failure(f"{'more than' if arrived > total else 'only'} {min(arrived, total):,} bytes of {total:,} came")

    @contextmanager
    def _network(self) -> Iterator[None]:
        """Tell the errors of requests and urllib3 in few words."""
        try:
            yield
        except requests.ConnectTimeout as error:
            raise _Failure(f"no connection within {self.timeouts[0]:g} s") from error
        except (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError) as error:
            raise _Failure(f"nothing came for {self.timeouts[1]:g} s") from error
        except _NO_ADDRESS as error:
            raise _Failure(str(error), final=True) from error
        except requests.exceptions.ProxyError as error:
            raise _Failure(f"the proxy cannot be used: {_root(error)}") from error
        except urllib3.exceptions.ProtocolError as error:
            raise _Failure(f"the connection broke off: {_root(error)}") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _Failure(_root(error)) from error


def _root(error: BaseException) -> str:
    """What the operating system or the server said, which requests and urllib3 wrap several times."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _content_length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _validator(response: requests.Response) -> str:
    """What If-Range takes: a strong ETag or else a date."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _retry_after(response: requests.Response) -> float:
    try:
        return urllib3.Retry().get_retry_after(response.raw) or 0
    except urllib3.exceptions.InvalidHeader:
        return 0
