"""Safe extraction of zips and tars: every member is checked before the first of them is written.

Refused are members that could end up outside the folder they are extracted to (absolute paths, `..`, links), that are no files
(devices), that would overwrite each other, or that are more, or larger, than any set of photos.
"""

import re
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import accumulate
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple, Self

from pipeline.errors import PipelineError
from pipeline.files import check_room, megabytes
from pipeline.progress import progress

MAX_MEMBERS = 1_000_000
MAX_BYTES = 100 * 10**9
# Photos are compressed already, so that an archive of them is about as large as they are. Up to HARMLESS_BYTES any
# ratio is accepted: a few small pictures of one colour may well compress a hundredfold.
MAX_RATIO = 100
HARMLESS_BYTES = 100 * 10**6
MAX_TAR_HEADER_BYTES = 2**20  # of the extended header that carries a long name; tarfile reads it into memory whole
UNSAFE_NAME = "has an unsafe name (absolute, leading out of its folder, or not valid UTF-8)"
_CHUNK_BYTES = 2**20
_TAR_EXTENSIONS = (b"L", b"K", b"x", b"g", b"X")  # long names and links of GNU, extended headers of POSIX and Solaris


class Useless(PipelineError):
    """What was downloaded is a page, is damaged or holds no photos: to be asked for again."""


class _Member(NamedTuple):
    path: str  # as stated; once it is checked, with forward slashes
    size: int  # bytes
    is_folder: bool
    info: Any  # what the archive opens it by
    refusal: str  # a verb and its object; "" where it may do no harm


def extract(source: Path, folder: Path) -> None:
    """Extract a zip or a tar (plain, or compressed by gzip, bzip2 or xz) into a folder, which is made.

    A PipelineError says that the file is damaged or no archive, a member is refused (see the module), or the disk is too small;
    an OSError that a file cannot be written.
    """
    with reading(source):
        archive = _open_archive(source)
    with archive:
        zipped = isinstance(archive, zipfile.ZipFile)
        with reading(source):
            members = _within_limits(source, _zip_members(archive) if zipped else _tar_members(archive))
        refuse_collisions(source, [member.path for member in members if not member.is_folder])
        folder.mkdir(parents=True)
        check_room(folder, sum(member.size for member in members), f"unpack {source}")
        open_member = archive.open if zipped else archive.extractfile
        with progress("unpacking", total=len(members), unit="files") as advance:
            for member in members:
                if member.is_folder:
                    (folder / member.path).mkdir(parents=True, exist_ok=True)
                else:
                    _write(f"{source}: {member.path!r}", open_member, member.info, folder / member.path)
                advance(1)


def max_bytes(packed: int) -> int:
    """How many bytes an archive of `packed` bytes may extract to."""
    return min(MAX_BYTES, packed * MAX_RATIO + HARMLESS_BYTES)


def folded(name: str) -> str:
    """A name as disks see it that ignore case, and how accents are encoded."""
    return unicodedata.normalize("NFC", name).casefold()


def refuse_collisions(source: Path, paths: Iterable[str]) -> None:
    """Refuse files that would be one file, or folders that would be one folder, on a disk that ignores case.

    A PipelineError says that two paths are the same, or differ only in case or in how their accents are encoded.
    """
    known: dict[str, str] = {}
    for path in paths:
        for prefix in (*accumulate(path.split("/")[:-1], "{}/{}".format), path):
            key = folded(prefix)
            other = known.get(key, prefix)
            if other != prefix or (prefix == path and key in known):
                raise PipelineError(f"{source}: {other!r} and {prefix!r} would be one on a disk that ignores case: refused.")
            known[key] = prefix


@contextmanager
def reading(what: object) -> Iterator[None]:
    """Raise what goes wrong while reading `what` (an archive, or a member of one) as a `PipelineError`."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:  # the standard library raises a dozen kinds over a damaged archive
        if isinstance(error, OSError) and error.errno is not None:  # gzip and bz2 report damage without a number
            raise PipelineError(f"{what} cannot be read: {error.strerror}.") from error
        kind = PipelineError if isinstance(error, NotImplementedError) else Useless  # of a compression, which others may know
        advice = "download the archive again, or unpack it by other means and give the folder."
        raise kind(f"{what} is damaged, cut short or packed in an unknown way ({error}): {advice}") from error


def _within_limits(source: Path, members: Iterable[_Member]) -> list[_Member]:
    """The members as a list, given up as soon as one may do harm or they are more than can be photos."""
    listed, size, limit = [], 0, max_bytes(source.stat().st_size)
    with progress("listing", total=None, unit="members") as advance:
        for member in members:
            path = PureWindowsPath(member.path)  # knows both kinds of slash, drive letters and network shares
            no_text = re.search("[\ud800-\udfff]", member.path)  # how Python stands in for bytes that are no UTF-8
            leads_out = path.anchor or any(not part.strip(". ") for part in path.parts)  # Windows takes ".. " for ".."
            unsafe = no_text or leads_out or "\0" in member.path
            if refusal := UNSAFE_NAME if unsafe else member.refusal:
                what = f"{source}: the member {member.path[:100]!r} {refusal}"
                raise PipelineError(f"{what}, which is refused; nothing was unpacked.")
            listed.append(member._replace(path=path.as_posix()))
            size += member.size
            if len(listed) > MAX_MEMBERS:
                raise PipelineError(f"{source} holds more than {MAX_MEMBERS:,} members, which is refused.")
            if size > limit:
                reason = f"it would unpack to more than {megabytes(limit)} (reached at {path.as_posix()!r})."
                raise PipelineError(f"{source} is refused as a decompression bomb: {reason}")
            advance(1)
    return listed


def _write(what: str, open_member: Any, info: Any, target: Path) -> None:
    """Tells errors of reading, which `reading` reports, from those of writing."""

    def chunks() -> Iterator[bytes]:
        with reading(what), open_member(info) as stream:
            yield from iter(partial(stream.read, _CHUNK_BYTES), b"")

    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        file.writelines(chunks())


class _StrictTarInfo(tarfile.TarInfo):
    """Reports a damaged header as damage; tarfile takes it for the end of the archive and drops all that follows."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the end marker, which tarfile knows
            raise tarfile.ReadError(str(error)) from error
        if info.size < 0 or (info.type in _TAR_EXTENSIONS and info.size > MAX_TAR_HEADER_BYTES):
            raise tarfile.ReadError(f"a header states a size of {info.size} bytes")
        return info


def _open_archive(source: Path) -> Any:
    with source.open("rb") as file:
        head = file.read(40)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):  # a tar begins with a name, which may begin with PK
        return zipfile.ZipFile(source)
    try:
        return tarfile.open(source, "r:*", encoding="utf-8", tarinfo=_StrictTarInfo)
    except tarfile.ReadError as error:  # an HTML page that asks to log in, a Git LFS pointer, another kind of archive, ...
        raise Useless(
            f"{source} is no zip and no tar, or damaged; it begins with {head!r}. Download the archive again, or give a folder."
        ) from error


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)  # 0 where it was not packed on Unix
        if not info.flag_bits & 0x800:  # it does not say UTF-8, but macOS writes that
            with suppress(UnicodeError):
                name = name.encode("cp437").decode()
        refusal = "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "is a link or a device"
        if info.flag_bits & 0x1:
            refusal = "is encrypted"
        yield _Member(name, info.file_size, name.endswith(("/", "\\")) or kind == stat.S_IFDIR, info, refusal)


def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    for info in archive:
        refusal = "" if info.isfile() or info.isdir() else "is a link or a device"
        yield _Member(info.name, info.size if info.isfile() else 0, info.isdir(), info, refusal)
    # The checksum of a compressed tar comes after the padding, and is compared once that has been read.
    if archive.fileobj is not None:
        archive.fileobj.read(2**20)
