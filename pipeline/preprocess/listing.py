"""The files that an audit has to examine: all that lie in the class folders under RAW/PetImages, sorted, each with an id.

files = find_tasks(Path("data/raw"), Path("data/.audited"), 256)
len(files), files[0].id
"""

import hashlib
import os
import re
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from pipeline.errors import PipelineError
from pipeline.preprocess.photo import Task

PHOTOS_FOLDER = "PetImages"
MAX_STEM = 100
CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # a file name may hold line breaks; a line of the manifest may not


class Listing(Sequence[Task]):
    """The files as tasks, each made when it is asked for: all at once would take several times the memory of their names."""

    def __init__(self, top: str, store: str, stored_size: int, names: Sequence[str], ids: Sequence[str]) -> None:
        """`names` are the files' paths below `top`, sorted; `store` is where photos go and `stored_size` in pixels."""
        self._top, self._store, self._stored_size, self._names, self._ids = top, store, stored_size, names, ids
        self._sizes, self._modified_ns = array("q"), array("q")
        for status in (os.stat(f"{top}/{name}") for name in names):
            self._sizes.append(status.st_size)
            self._modified_ns.append(status.st_mtime_ns)

    def __len__(self) -> int:
        """How many files there are."""
        return len(self._names)

    @overload
    def __getitem__(self, place: int) -> Task: ...
    @overload
    def __getitem__(self, place: slice) -> list[Task]: ...
    def __getitem__(self, place: int | slice) -> Task | list[Task]:
        """The task at a place, or those of a slice."""
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        name, photo = self._names[place], self._ids[place]
        label = sys.intern(class_of(name.partition("/")[0]))
        path = os.fsencode(f"{PHOTOS_FOLDER}/{name}").decode("utf-8", "backslashreplace")
        shown = CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", path)
        stored = os.path.join(self._store, label, f"{photo}.jpg")
        size, modified_ns = self._sizes[place], self._modified_ns[place]
        return Task(f"{self._top}/{name}", stored, photo, shown, label, size, modified_ns, self._stored_size)


def find_tasks(raw: Path, store: Path, stored_size: int) -> Sequence[Task]:
    """List the files of all classes, sorted by path, each with an id.

    The id is the class, a dot and the file's name without extension: PetImages/Cat/0.jpg is cat.0. Where several files
    would get the same id, also on a file system that ignores case, all of them get a digest of their path appended.

    Args:
        raw: the folder that holds PetImages.
        store: the folder for stored photos, `store`/class/ID.jpg.
        stored_size: upper bound of a stored photo's shorter side, in pixels.

    Raises:
        PipelineError: there is no PetImages, or it holds fewer than two class folders.
    """
    top = os.fspath(raw / PHOTOS_FOLDER)
    names = [name for folder in class_folders(raw) for name in _files(folder, below=top)]
    names.sort(key=os.fsencode)
    ids = [_plain_id(name) for name in names]
    counts = Counter(photo.lower() for photo in ids)
    for place, photo in enumerate(ids):
        if counts[photo.lower()] > 1:
            path = os.fsencode(f"{PHOTOS_FOLDER}/{names[place]}")
            ids[place] = f"{photo}-{hashlib.sha256(path).hexdigest()[:12]}"
    return Listing(top, os.fspath(store), stored_size, names, ids)


def class_folders(raw: Path) -> list[Path]:
    """The folders under `raw`/PetImages, of at least two classes.

    Raises:
        PipelineError: there is no PetImages, or it holds fewer.
    """
    top = raw / PHOTOS_FOLDER
    if not top.is_dir():
        raise PipelineError(f"There is no folder {top}. Run the download stage, or put one folder a class there.")
    folders = [path for path in top.iterdir() if path.is_dir()]
    if len({class_of(folder.name) for folder in folders}) < 2:
        raise PipelineError(f"{top} holds {len(folders)} class folder(s); there must be two or more classes to tell apart.")
    return folders


def class_of(folder: str) -> str:
    """The class that a folder's name stands for: lower-case, and safe as a file name."""
    return re.sub(r"[^\w.-]", "_", folder.lower())


def _files(folder: Path, below: str) -> Iterator[str]:
    """Paths of all files in `folder` relative to `below`, as text: pathlib's ways would take longer than decoding."""
    for parent, _, names in os.walk(folder):
        for file in filter(os.path.isfile, (os.path.join(parent, name) for name in names)):
            yield file[len(below) + 1 :]


def _plain_id(path: str) -> str:
    """Cat/0.jpg -> cat.0; folders inside a class become part of the name."""
    folder, *parents, name = path.split("/")
    stem = "_".join([*parents, os.path.splitext(name)[0]])[:MAX_STEM]
    return f"{class_of(folder)}.{re.sub(r'[^A-Za-z0-9_.-]', '_', stem)}"
