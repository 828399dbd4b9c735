"""What a folder holds: every file below it, with the reason why it is no photo where it is none.

A file with the suffix of a photo is taken for one (the audit in preprocessing refuses broken ones with a reason); of any other
file the first bytes decide. Links are followed, but for those to a folder that is read anyway: so links in a circle end.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath

from pipeline.download.extract import reading

PHOTO_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
RAW_SUFFIXES = frozenset(
    {".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw"}  # mostly TIFFs of a thumbnail
)
# What systems make in folders, in lower case.
SYSTEM_NAMES = frozenset(
    {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db", "desktop.ini"}
)
HIDDEN, NO_PHOTO, POINTER = "hidden", "no photo", "Git LFS pointer"
_POINTER_BYTES = 1024  # at most
# JPEG, PNG, GIF, BMP, TIFF, WEBP; HEIC and AVIF
_PHOTO = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|BM.{4}\0{4}|II\*\0|MM\0\*|RIFF.{4}WEBP|.{4}ftyp(avi[fs]|mif1|msf1|he[iv][cmsx])",
    re.DOTALL,
)


def is_photo_name(name: str) -> bool:
    """Whether a file's name has the suffix of a photo."""
    return PurePath(name).suffix.lower() in PHOTO_SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that programs keep for themselves (.git, .DS_Store, Thumbs.db)."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def list_files(source: Path, folder: Path) -> tuple[dict[str, str], list[str]]:
    """List a folder with what `source`, which errors name, holds.

    Returns:
        Path below the folder, with forward slashes -> why the file is no photo ("" where it seems to be one), sorted; and the
        paths of all folders. A name that is not UTF-8 is spelled with backslashes.
    """
    files, folders = {}, []
    with reading(source):
        for path, is_folder in walk(folder):
            below = path.relative_to(folder)
            name = os.fsencode(below).decode("utf-8", "backslashreplace")
            if is_folder:
                folders.append(name)
            else:
                files[name] = _why_no_photo(path, below)
    return dict(sorted(files.items())), sorted(folders)


def walk(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Every path below a folder, and whether it is a folder that is read; links are followed as the module says.

    An OSError says that a folder cannot be read, which of a hidden one does not matter.
    """

    def fail(error: OSError) -> None:
        if not is_hidden(Path(error.filename).name):
            raise error

    read = [folder.resolve()]
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders.sort()
        for name in tuple(folders):
            path = Path(parent, name)
            target = path.resolve() if path.is_symlink() else None
            if target and any(target.is_relative_to(other) or other.is_relative_to(target) for other in read):
                folders.remove(name)
                yield path, False
            else:
                read += [target] if target else []
                yield path, True
        yield from ((Path(parent, name), False) for name in files)


def _why_no_photo(path: Path, below: Path) -> str:
    """The reason why a file is no photo, from its name and its first bytes; "" where it seems to be one."""
    if any(map(is_hidden, below.parts)):
        return HIDDEN
    if path.suffix.lower() in RAW_SUFFIXES:
        return "camera RAW: export it as JPEG"
    try:
        os.fspath(below).encode()
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return "link to a folder that is read anyway" if path.is_dir() else "device or pipe"
        named = is_photo_name(path.name)
        head = b""
        if not named or status.st_size <= _POINTER_BYTES:
            with path.open("rb") as file:
                head = file.read(64)
    except UnicodeEncodeError:
        return "name that is not UTF-8"
    except OSError as error:
        return "link to nothing" if path.is_symlink() else f"cannot be read ({error.strerror})"
    if named and head.startswith(b"version https://git-lfs"):
        return POINTER
    return "" if named or _PHOTO.match(head) else NO_PHOTO
