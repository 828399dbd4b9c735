"""Unpacking to one layout, `PetImages/<Class>/<name>`: from a zip, a tar, a folder or Parquet files, whole or not at all.

Files are written as they were published, empty and damaged ones included: the audit in preprocessing decides which are photos.
"""

import os
import shutil
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline.download.extract import checked_parts, extract, reading, refuse_collisions, refused, room_for
from pipeline.download.layouts import SPLITS_FILE, is_photo, place, write_splits
from pipeline.download.parquet import extract_parquet, parquet_files
from pipeline.errors import PipelineError
from pipeline.files import cannot_write, check_room, recover_folder, replace_folder
from pipeline.progress import progress

PHOTOS_FOLDER = "PetImages"
INNER_ARCHIVE = "train.zip"  # what Kaggle packs the labelled photos in, inside the zip of all files


@dataclass(frozen=True)
class Unpacked:
    """What `unpack_photos` wrote.

    Attributes:
        layout: the layout of the source, by its name in `pipeline.download.layouts`.
        classes: the number of files of each class, in the order of their names; files that are no photos are included.
        left_out: the files of the source that belong to no class, such as a readme.
        splits: the number of files of each predefined split; empty where the source has none.
    """

    layout: str
    classes: dict[str, int]
    left_out: list[str]
    splits: dict[str, int]


def unpack_photos(source: Path, destination: Path) -> Unpacked:
    """Write the photos of a source to `destination/PetImages/<Class>/<name>`, and predefined splits to `splits.csv`.

    Args:
        source: a zip, a tar (plain, or compressed by gzip, bzip2 or xz), a folder, or Parquet files, in one of the layouts of
            `pipeline.download.layouts`. Where an archive holds no photos but one train.zip, that is unpacked.
        destination: a folder to make. One that holds nothing but an earlier result is replaced once all is written.

    Raises:
        PipelineError: the source is missing, damaged, no archive, unsafe, in no known layout or of fewer than two
            classes; the disk is too small; or a file cannot be written. The destination is then as it was before.
    """
    destination = destination.resolve()
    _check_apart(source, destination)
    fresh, extracted = (destination.with_name(f".{destination.name}.{name}") for name in ("unpacking", "extracted"))
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        recover_folder(destination)
        for folder in (fresh, extracted):
            shutil.rmtree(folder, ignore_errors=True)  # left by a kill
        unpacked = _place(source, _extracted(source, extracted), fresh)
        replace_folder(fresh, destination)
        return unpacked
    except OSError as error:  # of the disk: `reading` reports those of the source
        raise cannot_write(destination, error) from error
    finally:
        for folder in (fresh, extracted):
            shutil.rmtree(folder, ignore_errors=True)


def _check_apart(source: Path, destination: Path) -> None:
    """Refuse to read what is being written, and to replace what is not known to be an earlier result."""
    if not source.exists():
        raise PipelineError(f"{source} does not exist.")
    reads = source.resolve()
    if reads == destination or reads in destination.parents or destination in reads.parents:
        raise PipelineError(f"{source} and {destination} lie one in the other: give a destination apart from the source.")
    if destination.exists() and not destination.is_dir():
        raise PipelineError(f"{destination} is a file, where a folder is to be made: move it away.")
    ours = {PHOTOS_FOLDER, SPLITS_FILE}
    if destination.exists() and (others := [path.name for path in destination.iterdir() if path.name not in ours]):
        raise PipelineError(
            f"{destination} holds other things than {PHOTOS_FOLDER} ({min(others)!r}) and would be replaced: move them "
            "away, or give another destination."
        )


def _extracted(source: Path, folder: Path) -> Path:
    """A folder with what the source holds: the source itself, or `folder` with what was extracted from it."""
    with reading(source):
        tables = parquet_files(source)
    if tables:
        extract_parquet(tables, folder)
        return folder
    if source.is_dir():
        return source
    extract(source, folder / source.name)
    files = [path for path in (folder / source.name).rglob("*") if path.is_file()]
    inner = [path for path in files if path.name == INNER_ARCHIVE]
    if len(inner) != 1 or any(is_photo(path.name) for path in files):
        return folder / source.name
    extract(inner[0], folder / f"{source.name}.inner")
    return folder / f"{source.name}.inner"


def _place(source: Path, folder: Path, fresh: Path) -> Unpacked:
    """Write the photos of a folder to `fresh`: copied where the folder is the source, and moved where it was extracted."""
    files, folders = _listed(source, folder)
    layout, placed = place(source, folder, files, folders)
    targets = {photo.path: f"{PHOTOS_FOLDER}/{photo.label}/{photo.name}" for photo in placed}
    refuse_collisions(source, targets.values())
    for label in {photo.label for photo in placed}:
        (fresh / PHOTOS_FOLDER / label).mkdir(parents=True)
    if folder == source:
        check_room(fresh, room_for((folder / path).stat().st_size for path in targets), f"unpack {source}")
    with progress("copying" if folder == source else "sorting", total=len(targets), unit="files") as advance:
        for path, target in targets.items():
            (_copy if folder == source else os.replace)(folder / path, fresh / target)
            advance(1)
    if splits := {targets[photo.path]: photo.split for photo in placed if photo.split}:
        write_splits(fresh, splits)
    return Unpacked(
        layout=layout,
        classes=dict(sorted(Counter(photo.label for photo in placed).items())),
        left_out=[path for path in files if path not in targets],
        splits=dict(sorted(Counter(splits.values()).items())),
    )


def _copy(path: Path, target: Path) -> None:
    with reading(path):
        file = path.open("rb")
    with file, target.open("xb") as copy:
        shutil.copyfileobj(file, copy)


def _listed(source: Path, folder: Path) -> tuple[list[str], list[str]]:
    """The paths of all files and of all folders below a folder, which has no links and no devices."""

    def fail(error: OSError) -> None:
        raise error

    files: list[str] = []
    folders: list[str] = []
    with reading(source):
        for parent, below, names in os.walk(folder, onerror=fail):
            below.sort()
            for path in map(Path(parent).joinpath, (*below, *sorted(names))):
                name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
                checked_parts(source, name)
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise refused(source, name, "is a link or a device")
                (folders if stat.S_ISDIR(mode) else files).append(name)
    return files, folders
