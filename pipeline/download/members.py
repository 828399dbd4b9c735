"""The files inside a zip, a tar, a folder or Parquet files: listed and checked as a whole before the first of them is read.

An archive from elsewhere is not trusted: a member that could end up outside the folder it is unpacked to (absolute
paths, `..`, links), one that is no file (devices), or more members and bytes than any set of photos has, is refused.
"""

import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO, Self

from pipeline.download import parquet
from pipeline.errors import PipelineError
from pipeline.files import megabytes
from pipeline.progress import progress

MAX_MEMBERS = 1_000_000
MAX_BYTES = 100 * 10**9
# Photos are compressed already, so that an archive of them is about as large as they are. Up to HARMLESS_BYTES any
# ratio is let through: a few small pictures of one colour may well compress a hundredfold.
MAX_RATIO = 100
HARMLESS_BYTES = 100 * 10**6
MAX_NAME_BYTES = 255  # of one file or folder; the limit of ext4, XFS, APFS and NTFS
MAX_TAR_HEADER_BYTES = 2**20  # of the extended header that carries a long name; tarfile reads it into memory whole
MAX_TAR_PADDING_BYTES = 2**20

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
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_COMPRESSED_STARTS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")
_TAR_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_HTML = "an HTML page, such as a log-in or an error page that was saved in place of the archive"
_LOOKS = (
    (b"rar!", "a RAR archive: unpack it with its own program and give the folder"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it with its own program and give the folder"),
    (b"\xff\xd8\xff", "a JPEG photo"),
    (b"\x89png", "a PNG picture"),
    (b"%pdf", "a PDF document"),
    (b"version https://git-lfs", "a Git LFS pointer, which stands for a file that was not fetched"),
    (b"<!doctype html", _HTML),
    (b"<html", _HTML),
    (b"<", "an XML document"),
    (b"{", "a JSON document"),
)


@dataclass(frozen=True)
class Member:
    """One file or folder of a source; `parts` is its checked path, `size` is in bytes, `open` gives its bytes."""

    parts: tuple[str, ...]
    size: int
    is_folder: bool
    open: Callable[[], IO[bytes]]

    @property
    def name(self) -> str:
        """The path with forward slashes."""
        return "/".join(self.parts)


class _StrictTarInfo(tarfile.TarInfo):
    """Takes a damaged header for damage; tarfile takes it for the end of the archive and drops all that follows."""

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


@contextmanager
def reading(what: object) -> Iterator[None]:
    """Tell what goes wrong while reading `what` (a source, or a member of one) as a `PipelineError`."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise PipelineError(f"{what} holds a name that is not valid UTF-8: pack it again with plain names.") from error
    except _DAMAGE as error:
        raise PipelineError(f"{what} is damaged or was cut short ({error}): download the archive again.") from error
    except RuntimeError as error:  # a way of packing that the standard library does not know
        raise PipelineError(f"{what} cannot be read ({error}): unpack it by other means and give the folder.") from error
    except OSError as error:
        if error.errno is None:  # how gzip and bz2 tell of damage
            raise PipelineError(f"{what} is damaged or was cut short ({error}): download the archive again.") from error
        raise PipelineError(f"{what} cannot be read: {error.strerror}.") from error


@contextmanager
def members_of(source: Path) -> Iterator[list[Member]]:
    """List what a source holds, in its order, and keep it open so that the members can be read.

    Args:
        source: a zip, a tar (plain, or compressed by gzip, bzip2 or xz), a folder, or a Parquet file or a folder of
            those (see `pipeline.download.parquet`).

    Raises:
        PipelineError: the source is missing, empty, damaged or no archive, or a member is refused (see the module).
    """
    with ExitStack() as opened:
        with reading(source):
            if tables := _parquet_files(source):
                size = sum(table.stat().st_size for table in tables)
                limit, found = min(MAX_BYTES, size * MAX_RATIO + HARMLESS_BYTES), _parquet_members(source, tables)
            elif source.is_dir():
                limit, found = MAX_BYTES, _folder_members(source)
            else:
                archive = _open_archive(source)
                opened.callback(archive.close)
                limit = min(MAX_BYTES, source.stat().st_size * MAX_RATIO + HARMLESS_BYTES)
                if isinstance(archive, zipfile.ZipFile):  # noqa: SIM108 - the type checker follows this form
                    found = _zip_members(source, archive)
                else:
                    found = _tar_members(source, archive)
            members = _within_limits(source, found, limit)
        yield members


def _parquet_files(source: Path) -> list[Path]:
    """The source itself where it is a Parquet file, those in it where it is a folder of them; none otherwise."""
    if source.is_dir():
        return sorted(source.glob(f"*{parquet.SUFFIX}"))
    if not source.is_file():
        return []
    with source.open("rb") as file:
        return [source] if file.read(len(parquet.MAGIC)) == parquet.MAGIC else []


def _parquet_members(source: Path, tables: Sequence[Path]) -> Iterator[Member]:
    for cell in parquet.parquet_cells(tables):
        parts = _checked_parts(source, "/".join(filter(None, (cell.split, cell.label, f"{cell.row}.jpg"))))
        yield Member(parts, cell.size, False, cell.open)


def _open_archive(source: Path) -> zipfile.ZipFile | tarfile.TarFile:
    if not source.exists():
        raise PipelineError(f"{source} does not exist.")
    if not source.stat().st_size:
        raise PipelineError(f"{source} is empty (0 bytes): download the archive again.")
    with source.open("rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    if head.startswith(_ZIP_STARTS):
        return zipfile.ZipFile(source)
    try:
        return tarfile.open(source, "r:*", encoding="utf-8", tarinfo=_StrictTarInfo)
    except tarfile.ReadError as error:
        if head.startswith(_COMPRESSED_STARTS) or head[257:262] == b"ustar":
            reason = "is damaged, or it is compressed but no tar: download the archive again."
        else:
            start = head.lstrip().lower()
            looks = (meaning for known, meaning in _LOOKS if start.startswith(known))
            reason = f"is no zip and no tar. It looks like {next(looks, f'something else, beginning with {head[:16]!r}')}."
        raise PipelineError(f"{source} {reason}") from error


def _within_limits(source: Path, members: Iterable[Member], limit: int) -> list[Member]:
    """The members as a list, given up as soon as they are more than can be photos."""
    listed, size = [], 0
    with progress("listing", total=None, unit="members") as advance:
        for member in members:
            if not member.parts and not member.is_folder:
                raise _refused(source, ".", "has no name")
            listed.append(member)
            size += member.size
            if len(listed) > MAX_MEMBERS:
                raise PipelineError(f"{source} holds more than {MAX_MEMBERS:,} members, which is refused.")
            if size > limit:
                raise PipelineError(
                    f"{source} would unpack to more than {megabytes(limit)} (reached at {member.name!r}), which no "
                    "archive of photos of its size does: it is refused as a decompression bomb."
                )
            advance(1)
    return listed


def _zip_members(source: Path, archive: zipfile.ZipFile) -> Iterator[Member]:
    for info in archive.infolist():
        parts = _checked_parts(source, info.orig_filename)
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not packed on Unix
        is_folder = info.orig_filename.endswith(("/", "\\")) or stat.S_ISDIR(kind)
        if info.flag_bits & 0x1:
            raise _refused(source, info.orig_filename, "is encrypted")
        if kind and not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise _refused(source, info.orig_filename, "is a link or a device")
        yield Member(parts, info.file_size, is_folder, partial(archive.open, info))


def _tar_members(source: Path, archive: tarfile.TarFile) -> Iterator[Member]:
    for info in archive:
        parts = _checked_parts(source, info.name)
        if info.size < 0 or not (info.isfile() or info.isdir()):
            raise _refused(source, info.name, "is a link or a device")
        yield Member(parts, info.size if info.isfile() else 0, info.isdir(), partial(_tar_stream, archive, info))
    # The checksum of a compressed tar stands behind the padding, and is looked at once that has been read.
    if archive.fileobj is not None:
        archive.fileobj.read(MAX_TAR_PADDING_BYTES)


def _tar_stream(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(info)
    assert stream is not None  # it is for folders alone
    return stream


def _folder_members(source: Path) -> Iterator[Member]:
    def fail(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(source, onerror=fail):
        folders.sort()
        for name in sorted(folders + files):
            path = Path(folder, name)
            inside = path.relative_to(source).as_posix()
            status = path.lstat()
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                raise _refused(source, inside, "is a link or a device")
            is_folder = stat.S_ISDIR(status.st_mode)
            size = 0 if is_folder else status.st_size
            yield Member(_checked_parts(source, inside), size, is_folder, partial(io.FileIO, path))


def _checked_parts(source: Path, name: str) -> tuple[str, ...]:
    """A member's path as its folders and its name, where that is safe on any disk."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise _refused(source, name, "has a name that is not valid UTF-8") from error
    if "\0" in name:
        raise _refused(source, name, "has a NUL in its name")
    path = PureWindowsPath(name)  # knows both kinds of slash, drive letters and network shares
    if path.anchor:
        raise _refused(source, name, "has an absolute path")
    if any(not part.strip(". ") for part in path.parts):  # Windows takes ".. " for ".."
        raise _refused(source, name, "leads out of its folder")
    if any(len(part.encode()) > MAX_NAME_BYTES for part in path.parts):
        raise _refused(source, name, f"has a name of more than {MAX_NAME_BYTES} bytes")
    return path.parts


def _refused(source: Path, name: str, reason: str) -> PipelineError:
    shown = name if len(name) <= 100 else f"{name[:100]}..."
    return PipelineError(f"{source}: the member {shown!r} {reason}, which is refused; nothing was unpacked.")
