"""Safe extraction of zips and tars: every member is checked before the first of them is written.

An archive from elsewhere is not trusted: refused are members that could end up outside the folder they are extracted to
(absolute paths, `..`, links), that are no files (devices), that would overwrite each other, or that are more, or larger, than
any set of photos.
"""

import lzma
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path, PureWindowsPath
from typing import IO, Self

from pipeline.errors import PipelineError
from pipeline.files import check_room, megabytes
from pipeline.progress import progress

MAX_MEMBERS = 1_000_000
MAX_BYTES = 100 * 10**9
# Photos are compressed already, so that an archive of them is about as large as they are. Up to HARMLESS_BYTES any
# ratio is accepted: a few small pictures of one colour may well compress a hundredfold.
MAX_RATIO = 100
HARMLESS_BYTES = 100 * 10**6
MAX_NAME_BYTES = 255  # of one file or folder; the limit of ext4, XFS, APFS and NTFS
MAX_TAR_HEADER_BYTES = 2**20  # of the extended header that carries a long name; tarfile reads it into memory whole
_CHUNK_BYTES = 2**20
_BLOCK_BYTES = 4096  # what a file takes up on most disks is a multiple of this

_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ArithmeticError,
    ValueError,
)
_TAR_EXTENSIONS = (b"L", b"K", b"x", b"g", b"X")  # long names and links of GNU, extended headers of POSIX and Solaris
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_COMPRESSED_STARTS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")
_LOOKS = {
    b"rar!": "a RAR archive: unpack it with its own program and give the folder",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive: unpack it with its own program and give the folder",
    b"version https://git-lfs": "a Git LFS pointer, which stands for a file that was not fetched: run git lfs pull",
    b"<": "an HTML page, such as a log-in or an error page that was saved in place of the archive",
    b"{": "a JSON document, such as an error that was saved in place of the archive",
}


@dataclass(frozen=True)
class _Member:
    parts: tuple[str, ...]  # the checked path
    size: int  # bytes
    is_folder: bool
    open: Callable[[], IO[bytes] | None]


def extract(source: Path, folder: Path) -> None:
    """Extract a zip or a tar (plain, or compressed by gzip, bzip2 or xz) into a folder, which is made.

    Raises:
        PipelineError: the file is empty, damaged or no archive, a member is refused (see the module), or the disk is too small.
        OSError: a file cannot be written.
    """
    with reading(source):
        archive = _open_archive(source)
    with archive:
        with reading(source):
            found = _zip_members(source, archive) if isinstance(archive, zipfile.ZipFile) else _tar_members(source, archive)
            members = _within_limits(source, found, max_bytes(source.stat().st_size))
        refuse_collisions(source, ["/".join(member.parts) for member in members if not member.is_folder])
        folder.mkdir(parents=True)
        check_room(folder, room_for(member.size for member in members), f"unpack {source}")
        with progress("unpacking", total=len(members), unit="files") as advance:
            for member in members:
                _write(source, member, folder.joinpath(*member.parts))
                advance(1)


def max_bytes(packed: int) -> int:
    """How many bytes an archive of `packed` bytes may extract to."""
    return min(MAX_BYTES, packed * MAX_RATIO + HARMLESS_BYTES)


def room_for(sizes: Iterable[int]) -> int:
    """The bytes that files of these sizes take up on a disk."""
    return sum(-(-size // _BLOCK_BYTES) * _BLOCK_BYTES for size in sizes)


def checked_parts(source: Path, name: str) -> tuple[str, ...]:
    """A member's path as its folders and its name, where that is safe on any disk.

    Raises:
        PipelineError: it is not.
    """
    path = PureWindowsPath(name)  # knows both kinds of slash, drive letters and network shares
    if any("\ud800" <= character <= "\udfff" for character in name):  # how Python stands in for bytes that are no UTF-8
        raise refused(source, name, "has a name that is not valid UTF-8")
    if "\0" in name:
        raise refused(source, name, "has a NUL in its name")
    if path.anchor:
        raise refused(source, name, "has an absolute path")
    if any(not part.strip(". ") for part in path.parts):  # Windows takes ".. " for ".."
        raise refused(source, name, "leads out of its folder")
    if any(len(part.encode()) > MAX_NAME_BYTES for part in path.parts):
        raise refused(source, name, f"has a name of more than {MAX_NAME_BYTES} bytes")
    return path.parts


def refuse_collisions(source: Path, paths: Iterable[str]) -> None:
    """Refuse files that would be one file, or folders that would be one folder, on a disk that ignores case.

    Raises:
        PipelineError: two paths are the same, or differ only in case or in how their accents are encoded.
    """
    known: dict[str, str] = {}
    for path in paths:
        for prefix in (*accumulate(path.split("/")[:-1], "{}/{}".format), path):
            other = known.get(folded := unicodedata.normalize("NFC", prefix).casefold(), prefix)
            if other != prefix or (prefix == path and folded in known):
                raise PipelineError(
                    f"{source}: {other!r} and {prefix!r} would be one on a disk that ignores case, which is refused; "
                    "nothing was unpacked."
                )
            known[folded] = prefix


@contextmanager
def reading(what: object) -> Iterator[None]:
    """Raise what goes wrong while reading `what` (an archive, or a member of one) as a `PipelineError`."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise PipelineError(f"{what} holds a name that is not valid UTF-8: pack it again with plain names.") from error
    except RuntimeError as error:  # a compression that the standard library does not know
        raise PipelineError(f"{what} cannot be read ({error}): unpack it by other means and give the folder.") from error
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # gzip and bz2 report damage without a number
            raise PipelineError(f"{what} cannot be read: {error.strerror}.") from error
        raise PipelineError(f"{what} is damaged or was cut short ({error}): download the archive again.") from error


def refused(source: Path, name: str, reason: str) -> PipelineError:
    """The error to raise for a member that is refused, which `reason` says in a verb and its object."""
    shown = name if len(name) <= 100 else f"{name[:100]}..."
    return PipelineError(f"{source}: the member {shown!r} {reason}, which is refused; nothing was unpacked.")


def _within_limits(source: Path, members: Iterable[_Member], limit: int) -> list[_Member]:
    """The members as a list, given up as soon as they are more than can be photos."""
    listed, size = [], 0
    with progress("listing", total=None, unit="members") as advance:
        for member in members:
            name = "/".join(member.parts)
            if not name and not member.is_folder:
                raise refused(source, ".", "has no name")
            listed.append(member)
            size += member.size
            if len(listed) > MAX_MEMBERS:
                raise PipelineError(f"{source} holds more than {MAX_MEMBERS:,} members, which is refused.")
            if size > limit:
                raise PipelineError(
                    f"{source} would unpack to more than {megabytes(limit)} (reached at {name!r}), which no "
                    "archive of photos of its size does: it is refused as a decompression bomb."
                )
            advance(1)
    return listed


def _write(source: Path, member: _Member, target: Path) -> None:
    if member.is_folder:
        target.mkdir(parents=True, exist_ok=True)
        return
    what = f"{source}: {'/'.join(member.parts)!r}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with reading(what):
        stream = member.open()
    assert stream is not None  # tarfile has none for folders alone
    written = 0
    with stream, target.open("xb") as file:
        while True:
            with reading(what):
                chunk = stream.read(_CHUNK_BYTES)
            if not chunk:
                break
            written += file.write(chunk)
    if written != member.size:
        raise PipelineError(f"{what} gave {written} bytes of {member.size}: it is damaged, or changed while it was read.")


class _StrictTarInfo(tarfile.TarInfo):
    """Reports a damaged header as damage; tarfile takes it for the end of the archive and drops all that follows."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if len(buf) == tarfile.BLOCKSIZE and not any(buf):
            return super().frombuf(buf, encoding, errors)  # the end marker, which tarfile knows
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error
        if info.size < 0 or (info.type in _TAR_EXTENSIONS and info.size > MAX_TAR_HEADER_BYTES):
            raise tarfile.ReadError(f"a header states a size of {info.size} bytes")
        return info


def _open_archive(source: Path) -> zipfile.ZipFile | tarfile.TarFile:
    with source.open("rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    if not head:
        raise PipelineError(f"{source} is empty (0 bytes): download the archive again.")
    if head.startswith(_ZIP_STARTS):
        return zipfile.ZipFile(source)
    try:
        return tarfile.open(source, "r:*", encoding="utf-8", tarinfo=_StrictTarInfo)
    except tarfile.ReadError as error:
        if head.startswith(_COMPRESSED_STARTS) or head[257:262] == b"ustar":
            reason = "is damaged, or it is compressed but no tar: download the archive again."
        else:
            start = head.lstrip().lower()
            looks = (meaning for known, meaning in _LOOKS.items() if start.startswith(known))
            reason = f"is no zip and no tar. It looks like {next(looks, f'something else, beginning with {head[:16]!r}')}."
        raise PipelineError(f"{source} {reason}") from error


def _zip_members(source: Path, archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        parts = checked_parts(source, info.orig_filename)
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not packed on Unix
        is_folder = info.orig_filename.endswith(("/", "\\")) or stat.S_ISDIR(kind)
        if info.flag_bits & 0x1:
            raise refused(source, info.orig_filename, "is encrypted")
        if kind and not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise refused(source, info.orig_filename, "is a link or a device")
        yield _Member(parts, info.file_size, is_folder, partial(archive.open, info))


def _tar_members(source: Path, archive: tarfile.TarFile) -> Iterator[_Member]:
    for info in archive:
        parts = checked_parts(source, info.name)
        if not (info.isfile() or info.isdir()):
            raise refused(source, info.name, "is a link or a device")
        yield _Member(parts, info.size if info.isfile() else 0, info.isdir(), partial(archive.extractfile, info))
    # The checksum of a compressed tar comes after the padding, and is compared once that has been read.
    if archive.fileobj is not None:
        archive.fileobj.read(2**20)
