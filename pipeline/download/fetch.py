"""Resuming HTTP download of one large file: `fetch(url, destination, sha256=...)`.

What has arrived lies in `<destination>.part`, and `<destination>.part.json` names the version of the file that it is a part of
(ETag or date), so that a later process continues after a kill, and starts again where the file has changed on the server.
"""

import json
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests
import urllib3

from pipeline.errors import PipelineError
from pipeline.files import cannot_write, check_room, fsync, megabytes, sha256_of
from pipeline.progress import progress, say

# Some sites refuse the names that HTTP libraries give themselves.
USER_AGENT = "Mozilla/5.0 (compatible; cats-and-dogs-transfer/0.1)"
_CHUNK_BYTES = 2**16
_PROGRESS_BYTES = 2**20  # an attempt that brings this much before it breaks off does not count as a failed one
_LONGEST_WAIT = 120.0  # seconds between two attempts
_TEMPORARY = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses after which another attempt may succeed


class _Failure(Exception):
    """A failed attempt. `final`: another one is of no use; `wait`: seconds that the server asked to wait."""

    def __init__(self, reason: str, *, final: bool = False, wait: float = 0) -> None:
        super().__init__(reason)
        self.final, self.wait = final, wait


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
        destination: left as it is where it has the expected SHA-256 already.
        sha256: the expected SHA-256, in lower-case hexadecimal.
        hint: what a person can do where the download fails; ends the error's text.
        attempts: how many attempts in a row may bring next to nothing.
        backoff: seconds before the second attempt; doubled before each further one.
        timeouts: seconds to wait for a connection, and for any next bytes.

    A PipelineError says that the file could not be had, the disk is too small, or a file cannot be written.
    """
    download = _Download(url, destination, sha256, timeouts)
    try:
        if destination.is_file() and sha256 in (None, sha256_of(destination)):
            return
        destination.parent.mkdir(parents=True, exist_ok=True)
        download.run(attempts, backoff)
    except _Failure as failure:
        lines = [f"{url} could not be downloaded: {failure}"]
        if download.continues():
            lines.append(f"{megabytes(download.arrived())} have arrived in {download.part}; the next run continues from there.")
        raise PipelineError("\n".join([*lines, hint]).rstrip()) from failure
    except OSError as error:  # of the disk: those of the network are failures
        raise cannot_write(destination, error) from error


class _Download:
    def __init__(self, url: str, destination: Path, sha256: str | None, timeouts: tuple[float, float]) -> None:
        self.url, self.destination, self.sha256, self.timeouts = url, destination, sha256, timeouts
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
                wait = max(failure.wait, min(backoff * 2 ** max(failed - 1, 0), _LONGEST_WAIT))
                if failure.final or failed >= attempts or wait > _LONGEST_WAIT:
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
                raise _Failure(f"{type(error).__name__}: {error}", final=final) from error
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
        with requests.get(self.url, headers=headers, stream=True, timeout=self.timeouts, hooks=hooks) as response:
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


def _version(response: requests.Response) -> str:
    """What If-Range takes: a strong ETag, or else a date."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
