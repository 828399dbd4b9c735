"""A file that is being downloaded: the part that has arrived, and which version of which address it is a part of.

The part is `<destination>.part`, and `<destination>.part.json` says whose part it is, so that a later process can go
on.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from pipeline.files import sha256_of


class Version(BaseModel, frozen=True, extra="forbid"):
    """One version of the file at an address, as its server describes it.

    Attributes:
        url: the address.
        validator: what If-Range takes, a strong ETag or a Last-Modified date; empty where the server gives neither.
        total: the size of the whole file in bytes, where the server tells.
    """

    url: str
    validator: str
    total: int | None


@dataclass(frozen=True)
class Part:
    """The part of `destination`, a file of `size` bytes whose SHA-256 is `sha256`, where those are known."""

    destination: Path
    size: int | None
    sha256: str | None

    @property
    def path(self) -> Path:
        """Where the bytes that have arrived are kept."""
        return self.destination.with_name(f"{self.destination.name}.part")

    @property
    def _note(self) -> Path:
        return self.destination.with_name(f"{self.destination.name}.part.json")

    def arrived(self) -> int:
        """The number of bytes that have arrived."""
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self) -> Version | None:
        """The version that the bytes belong to, where one can go on from them."""
        try:
            version = Version.model_validate_json(self._note.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
        fits = self.size is None or version.total in (None, self.size)
        possible = version.total is None or self.arrived() <= version.total
        return version if version.validator and fits and possible and self.arrived() else None

    def start(self, version: Version) -> None:
        """Begin afresh, with no bytes, for a version."""
        self.path.write_bytes(b"")  # before the note, which must never stand beside the bytes of another version
        self._note.write_text(version.model_dump_json(), encoding="utf-8")

    def drop(self) -> None:
        """Forget what has arrived."""
        self._note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def fault(self, path: Path) -> str | None:
        """What keeps `path` from being the file that is wanted, or None where nothing does."""
        size = path.stat().st_size
        if self.size is not None and size != self.size:
            return f"the file has {size:,} bytes, and {self.size:,} are expected"
        if self.sha256 is not None and (found := sha256_of(path)) != self.sha256.lower():
            return f"the file's SHA-256 is {found}, and {self.sha256.lower()} is expected"
        return None

    def finish(self) -> None:
        """Make the part the destination; after a crash of the machine too that is there whole or not at all."""
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        self.path.replace(self.destination)
        self._note.unlink(missing_ok=True)
