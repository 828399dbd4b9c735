"""Unpacking: from a zip, a tar or a folder of photos to one layout, `PetImages/<Class>/<name>`.

Files are written as they were published, empty and damaged ones included: which of them are photos is for the audit to
say. The destination appears whole or not at all.
"""

import shutil
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.layouts import Placed, place
from pipeline.data.members import Member, members_of, reading
from pipeline.errors import PipelineError
from pipeline.files import cannot_write, check_room, recover_folder, replace_folder
from pipeline.progress import progress

PHOTOS_FOLDER = "PetImages"
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
    """

    classes: dict[str, int]
    files: int
    bytes: int
    layout: str
    ignored: int


def unpack_photos(source: Path, destination: Path) -> Unpacked:
    """Write the photos of a source to `destination/PetImages/<Class>/<name>`.

    Args:
        source: a zip, a tar (plain, or compressed by gzip, bzip2 or xz), or a folder, in one of the
            layouts that `pipeline.data.layouts` knows.
        destination: a folder to make. One that holds nothing but an earlier `PetImages` is replaced once all is
            written.

    Raises:
        PipelineError: the source is missing, damaged, no archive, unsafe, in no known layout or of fewer than two
            classes; the disk is too small; or a file cannot be written. The destination is then as it was before.
    """
    destination = destination.resolve()
    fresh = destination.with_name(f".{destination.name}.unpacking")
    _check_apart(source, destination)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)  # left by a run that was killed
        recover_folder(destination)
        with members_of(source) as members:
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
    counts = Counter(photo.label for photo in placed)
    return Unpacked(
        classes=dict(sorted(counts.items())),
        files=len(placed),
        bytes=sum(photo.member.size for photo in placed),
        layout=layout,
        ignored=sum(not member.is_folder for member in members) - len(placed),
    )


def _check_apart(source: Path, destination: Path) -> None:
    """Refuse to read what is being written, and to replace what is not known to be an earlier result."""
    reads = source.resolve()
    if reads == destination or reads in destination.parents or destination in reads.parents:
        raise PipelineError(f"{source} and {destination} lie one in the other: give a destination apart from the source.")
    if destination.exists() and not destination.is_dir():
        raise PipelineError(f"{destination} is a file, where a folder is to be made: move it away.")
    if destination.exists() and (others := [path.name for path in destination.iterdir() if path.name != PHOTOS_FOLDER]):
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
