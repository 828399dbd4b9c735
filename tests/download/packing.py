"""Archives for tests: the same files as a zip, as each kind of tar and as a folder; and what a folder holds."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

ARCHIVES = ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]
SOURCES = [*ARCHIVES, "folder"]


def pack(kind: str, files: Mapping[str, bytes], parent: Path) -> Path:
    """Pack `files` (by name; one that ends in a slash is a folder) as `parent/source` and an extension."""
    source = parent / (f"source.{kind}" if kind in ARCHIVES else "source")
    if kind == "zip":
        source.write_bytes(zipped(files))
    elif kind == "folder":
        source.mkdir()
        for name, content in files.items():
            path = source / name
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.write_bytes(content)
    else:
        pack_tar(source, [(entry(name, len(content)), content) for name, content in files.items()])
    return source


def zipped(files: Mapping[str, bytes]) -> bytes:
    """The content of a zip of `files`."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def entry(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    """A tar's description of a member."""
    info = tarfile.TarInfo(name.rstrip("/"))
    info.type = tarfile.DIRTYPE if name.endswith("/") else kind
    info.size = size
    info.linkname = "PetImages/Cat/0.jpg" if kind in (tarfile.LNKTYPE, tarfile.SYMTYPE) else ""
    return info


def pack_tar(source: Path, entries: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    """Pack members as they are described, whatever they hold; compressed as the name of `source` says."""
    compression = source.suffix[1:] if source.suffix != ".tar" else ""
    with tarfile.open(source, f"w:{compression}") as archive:  # type: ignore[call-overload]
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content) if info.isfile() else None)
    return source


def files_below(folder: Path) -> dict[str, bytes]:
    """Relative path -> content of every file."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
