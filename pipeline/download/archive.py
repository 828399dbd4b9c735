"""Unpacking: from a zip, a tar, a folder or Parquet files of photos to one layout, `PetImages/<Class>/<name>`.

Files are written as they were published, empty and damaged ones included: which of them are photos is for the audit to
say. The destination appears whole or not at all. Where the photos come with splits, `splits.csv` lists them.
"""

import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.download.layouts import Placed, is_photo, place
from pipeline.download.members import Member, members_of, reading
from pipeline.download.predefined import SPLITS_FILE, write_predefined
from pipeline.errors import PipelineError
from pipeline.files import cannot_write, check_room, recover_folder, replace_folder
from pipeline.progress import progress

PHOTOS_FOLDER = "PetImages"
INNER_ARCHIVE = "train.zip"  # what Kaggle packs the labelled photos in, inside the zip of all files
_CHUNK_BYTES = 2**20
_BLOCK_BYTES = 4096  # what a file takes up on most disks is a multiple of this


@dataclass(frozen=True)
class Unpacked:
    """What `unpack_photos` wrote.

    Attributes:
        classes: the number of files of each class, in the order of their names; files that are no photos are included.
        files: the number of files in all.
        bytes: their size.
        layout: how the source was laid out: "published", "flat" or "class folders".
        ignored: files of the source that belong to no class and were left out, such as a readme.
        splits: the number of files of each split that the source comes with; empty where it comes with none.
    """

    classes: dict[str, int]
    files: int
    bytes: int
    layout: str
    ignored: int
    splits: dict[str, int] = field(default_factory=dict)


def unpack_photos(source: Path, destination: Path) -> Unpacked:
    """Write the photos of a source to `destination/PetImages/<Class>/<name>`.

    Args:
        source: a zip, a tar (plain, or compressed by gzip, bzip2 or xz), a folder, or Parquet files, in one of the
            layouts that `pipeline.download.layouts` knows. Of a zip without photos that holds a train.zip, that is meant.
        destination: a folder to make. One that holds nothing but an earlier result is replaced once all is written.

    Raises:
        PipelineError: the source is missing, damaged, no archive, unsafe, in no known layout or of fewer than two
            classes; the disk is too small; or a file cannot be written. The destination is then as it was before.
    """
    destination = destination.resolve()
    fresh = destination.with_name(f".{destination.name}.unpacking")
    inner = destination.with_name(f".{destination.name}.inner")
    _check_apart(source, destination)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        for left_by_a_kill in (fresh, inner):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        recover_folder(destination)
        with _members(source, inner) as members:
            layout, placed = place(source, members)
            _check_collisions(source, placed)
            blocks = sum(-(-photo.member.size // _BLOCK_BYTES) for photo in placed)
            check_room(destination.parent, blocks * _BLOCK_BYTES, f"unpack {source}")
            _write(source, placed, fresh)
        replace_folder(fresh, destination)
    except OSError as error:  # what is read tells its own errors
        raise cannot_write(destination, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(inner, ignore_errors=True)
    counts = Counter(photo.label for photo in placed)
    return Unpacked(
        classes=dict(sorted(counts.items())),
        files=len(placed),
        bytes=sum(photo.member.size for photo in placed),
        layout=layout,
        ignored=sum(not member.is_folder for member in members) - len(placed),
        splits=dict(sorted(Counter(photo.split for photo in placed if photo.split).items())),
    )


@contextmanager
def _members(source: Path, inner: Path) -> Iterator[list[Member]]:
    """What the source holds, or the archive inside it where that is what holds the photos; that is copied into `inner`."""
    with members_of(source) as members:
        files = [member for member in members if not member.is_folder]
        packed = [member for member in files if member.parts[-1] == INNER_ARCHIVE]
        if len(packed) != 1 or any(is_photo(member.parts[-1]) for member in files):
            yield members
            return
        archive = inner / source.name / INNER_ARCHIVE  # errors name it so
        archive.parent.mkdir(parents=True)
        check_room(inner, packed[0].size, f"unpack {source}")
        _copy(source, packed[0], archive)
    with members_of(archive) as members:
        yield members


def _check_apart(source: Path, destination: Path) -> None:
    """Refuse to read what is being written, and to replace what is not known to be an earlier result."""
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


def _check_collisions(source: Path, placed: Sequence[Placed]) -> None:
    """Refuse files that would be one file, or class folders one folder, on a disk that takes A for a."""
    labels: dict[str, str] = {}
    names: dict[tuple[str, str], str] = {}
    for photo in placed:
        label, name = (unicodedata.normalize("NFC", part).casefold() for part in (photo.label, photo.name))
        if labels.setdefault(label, photo.label) != photo.label:
            one, other = labels[label], photo.label
        elif (label, name) in names:
            one, other = names[label, name], photo.member.name
        else:
            names[label, name] = photo.member.name
            continue
        raise PipelineError(
            f"{source}: {one!r} and {other!r} would be one on a disk that does not tell small letters from capitals, "
            "which is refused; nothing was unpacked."
        )


def _write(source: Path, placed: Sequence[Placed], fresh: Path) -> None:
    for label in {photo.label for photo in placed}:
        (fresh / PHOTOS_FOLDER / label).mkdir(parents=True)
    with progress("unpacking", total=len(placed), unit="files") as advance:
        for photo in placed:
            _copy(source, photo.member, fresh / PHOTOS_FOLDER / photo.label / photo.name)
            advance(1)
    if splits := {f"{PHOTOS_FOLDER}/{photo.label}/{photo.name}": photo.split for photo in placed if photo.split}:
        write_predefined(fresh, splits)


def _copy(source: Path, member: Member, target: Path) -> None:
    what = f"{source}: {member.name!r}"
    with reading(what):
        stream = member.open()
    written = 0
    with stream, target.open("xb") as file:
        while True:
            with reading(what):
                chunk = stream.read(_CHUNK_BYTES)
            if not chunk:
                break
            file.write(chunk)
            written += len(chunk)
    if written != member.size:
        raise PipelineError(f"{what} gave {written} bytes of {member.size}: it is damaged, or changed while it was read.")
