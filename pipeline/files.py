"""Files: SHA-256, free disk space, atomic writes, and the small JSON and CSV files that DVC and people read."""

import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sources_of(module_file: Path) -> list[Path]:
    """What a Python module is made of: its file, or every .py file below the topmost package that it lies in; sorted."""
    packages = list(takewhile(lambda folder: (folder / "__init__.py").is_file(), module_file.absolute().parents))
    return sorted(file for file in packages[-1].rglob("*.py") if file.is_file()) if packages else [module_file]


def printable(name: str) -> str:
    """A file's name as text that can be written: what is no UTF-8, or breaks a line, as in `\\xff`."""
    return re.sub(r"[\x00-\x1f\x7f\udc80-\udcff]", lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", name)


def public_name(weights: str) -> str:
    """Weights as they are set, but of a file outside the project only its name: its path is private."""
    path = Path(weights)
    return path.name if path.is_absolute() or {"..", "~"} & set(path.parts) else weights


def megabytes(size: int) -> str:
    """12_345_678 (bytes) -> '12.3 MB'."""
    return f"{size / 1e6:,.1f} MB"


def disk_of(path: Path) -> Path:
    """The mount point of the disk that holds `path`, which need not exist yet."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if os.path.ismount(folder))


def check_room(folder: Path, needed: int, purpose: str) -> None:
    """Raise "There is no room to `purpose`" where fewer than `needed` bytes are free on the disk of an existing folder."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise PipelineError(
            f"There is no room to {purpose}: {megabytes(needed)} are needed and {megabytes(free)} are free on the disk "
            f"mounted at {disk_of(folder)}. Free some room there, or work on another disk."
        )


def cannot_write(path: Path, error: OSError) -> PipelineError:
    """The error to raise where writing below `path` failed; names the disk where that is full."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = f"the disk mounted at {disk_of(path)} is full. Free some room there, or work on another disk."
        return PipelineError(f"{path} cannot be written: {reason}")
    advice = " Make it writable for you." if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else ""
    return PipelineError(f"{path} cannot be written: {error.strerror or error}.{advice}")


def replace_folder(fresh: Path, folder: Path) -> None:
    """Put a folder that is whole, a sibling, in the place of another: at any moment one of the two stands there or beside.

    A folder cannot be renamed onto one that is not empty, so the old one steps aside first. A kill between the two renames
    is put right by `recover_folder`, which whoever reads the folder calls first.
    """
    recover_folder(folder)
    aside = _aside(folder)
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
    fresh.rename(folder)
    fsync(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Finish a replacement that was killed between its two renames: the old folder is whole, so it stands again."""
    if not folder.exists() and _aside(folder).exists():
        with suppress(FileNotFoundError):  # another process that reads it was faster
            _aside(folder).rename(folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def fsync(path: Path) -> None:
    """Have the disk take up a file's or folder's content before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network shares know no such thing of a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all: beside the old one, flushed to the disk, then renamed. Makes its folder if need be.

    The old file keeps its content wherever else it is linked, as DVC's cache links outputs where cache.type is hardlink.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)  # on a full disk its part would only take the room that is missing
        raise OSError(error.errno, error.strerror, str(temporary)) from None  # the system names it in opening alone
    temporary.replace(path)
    fsync(path.parent)


def write_hashed(folder: Path, stem: str, content: bytes) -> Path:
    """Write `folder`/`stem`-SHA256, so that the name says what the content must be."""
    write_atomically(folder / stem, content)
    return (folder / stem).rename(folder / f"{stem}-{hashlib.sha256(content).hexdigest()}")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with one key a line; floats keep six significant digits, which is more than any of them deserves."""
    write_atomically(path, (json.dumps(_rounded(content), indent=2) + "\n").encode())


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows of equal keys as CSV with a header."""
    rows = [_rounded(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote; a PipelineError tells that it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise PipelineError(f"{path} cannot be used ({error}). Make it again with: dvc repro") from None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return value
