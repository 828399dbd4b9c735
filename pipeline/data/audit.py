"""The audit: every file under RAW/PetImages is examined once, stored where it is a photo, and gets one manifest row.

The work is done by worker processes. A journal beside the stored photos records every finished file, so that an audit
that was killed goes on where it stopped. The manifest depends neither on the number of workers nor on the files' order.
"""

import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.data.journal import Journal
from pipeline.data.photo import Task, blank_row
from pipeline.data.workers import examine_all
from pipeline.errors import PipelineError
from pipeline.files import check_room
from pipeline.progress import progress, say

PHOTOS_FOLDER = "PetImages"
COLUMNS = tuple(blank_row(Task("", "", "", "", "", 0, 0, 0), ""))
MAX_STEM = 100
CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # a file name may hold line breaks; a line of the manifest may not


def audit(raw: Path, store: Path, *, stored_size: int, workers: int) -> pd.DataFrame:
    """Examine every file under `raw`/PetImages/CLASS and store the photos as `store`/class/ID.jpg.

    What an earlier, killed audit into the same `store` finished is taken over: a file whose path, size and modification
    time are the same is not decoded again. The memory needed does not grow with the photos, apart from their rows.

    Args:
        raw: the folder that holds PetImages.
        store: folder for the stored photos and the journal; created if need be.
        stored_size: upper bound of a stored photo's shorter side, in pixels.
        workers: how many processes decode.

    Returns:
        One row a file, sorted by path, with the columns `COLUMNS`. `status` is "kept", "repaired" (decoded in full, but
        something had to be done; `reason` says what, several things separated by "; ") or "refused" (`reason` says
        why). In a reason, details stand behind ": ". Width and height are those of the upright photo, in pixels.
        Numbers that are not known are 0, texts are empty.

    Raises:
        PipelineError: there is no photo folder, less than two classes, a class without a usable photo, or no room.
    """
    tasks = find_tasks(raw, store, stored_size)
    for folder in {store} | {store / task.label for task in tasks}:
        folder.mkdir(parents=True, exist_ok=True)
    with Journal(store, tasks, stored_size) as journal:
        remaining = [task for task in tasks if task.id not in journal.finished]
        check_room(store, sum(map(_room, remaining)), f"store the photos of {raw}")
        if journal.finished:
            say(f"auditing photos: {len(journal.finished):,} of {len(tasks):,} were finished before")
        with progress("auditing photos", total=len(remaining)) as advance:
            for finished in examine_all(remaining, workers):
                journal.append(finished)
                advance(len(finished))
        # As rows of a frame, texts packed, photos take a tenth of what they would as dicts until here.
        manifest = pd.concat((pd.DataFrame(rows, columns=list(COLUMNS)) for rows in journal.rows()), ignore_index=True)
    places = manifest["id"].map({task.id: place for place, task in enumerate(tasks)})
    del tasks, remaining, journal
    manifest = manifest.iloc[np.argsort(places.to_numpy())].reset_index(drop=True)
    _check_classes(manifest, raw)
    return manifest


def _room(task: Task) -> int:
    """Bytes that a stored photo takes at most, but for rare ones: twice the file's, and one a pixel of a square."""
    return min(2 * task.size, task.stored_size**2)


def _check_classes(manifest: pd.DataFrame, raw: Path) -> None:
    """Refuse to go on where a folder of `raw`/PetImages brought no usable photo."""
    top, refused = raw / PHOTOS_FOLDER, manifest["status"] == "refused"
    if refused.all():
        reasons = ", ".join(manifest["reason"].str.split(": ").str[0].unique()[:5])
        raise PipelineError(f"None of the {len(manifest):,} files under {top} is a usable photo. {reasons}".rstrip())
    classes = {_class_of(folder.name) for folder in _class_folders(raw)}
    empty = ", ".join(sorted(classes - set(manifest["class"][~refused])))
    if empty:
        raise PipelineError(f"{top} holds no usable photo of the class {empty}. Add photos, or remove the folder.")


def find_tasks(raw: Path, store: Path, stored_size: int) -> list[Task]:
    """List the files of all classes, sorted by path, each with an id.

    The id is the class, a dot and the file's name without extension: PetImages/Cat/0.jpg is cat.0. Where several files
    would get the same id, also on a file system that ignores case, all of them get a digest of their path appended.
    """
    top, folders = raw / PHOTOS_FOLDER, _class_folders(raw)
    files = sorted((file for folder in folders for file in _files(folder)), key=os.fsencode)
    below_top = [file[len(os.fspath(top)) + 1 :] for file in files]  # pathlib's ways would take longer than decoding
    plain_ids = [_plain_id(name) for name in below_top]
    counts = Counter(plain_id.lower() for plain_id in plain_ids)
    tasks = []
    for file, name, plain_id in zip(files, below_top, plain_ids, strict=True):
        path = os.fsencode(f"{PHOTOS_FOLDER}/{name}")
        unique = plain_id
        if counts[plain_id.lower()] > 1:
            unique = f"{plain_id}-{hashlib.sha256(path).hexdigest()[:12]}"
        label = sys.intern(_class_of(name.partition("/")[0]))
        shown = CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", path.decode("utf-8", "backslashreplace"))
        stored, status = os.path.join(store, label, f"{unique}.jpg"), os.stat(file)
        tasks.append(Task(file, stored, unique, shown, label, status.st_size, status.st_mtime_ns, stored_size))
    return tasks


def _class_folders(raw: Path) -> list[Path]:
    top = raw / PHOTOS_FOLDER
    if not top.is_dir():
        raise PipelineError(f"There is no folder {top}. Run the download stage, or put one folder a class there.")
    folders = [path for path in top.iterdir() if path.is_dir()]
    if len({_class_of(folder.name) for folder in folders}) < 2:
        raise PipelineError(f"{top} holds {len(folders)} class folder(s); there must be two or more classes to tell apart.")
    return folders


def _class_of(folder: str) -> str:
    return re.sub(r"[^\w.-]", "_", folder.lower())


def _files(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        yield from filter(os.path.isfile, (os.path.join(parent, name) for name in names))


def _plain_id(path: str) -> str:
    """Cat/0.jpg -> cat.0; folders inside a class become part of the name."""
    folder, *parents, name = path.split("/")
    stem = "_".join([*parents, os.path.splitext(name)[0]])[:MAX_STEM]
    return f"{_class_of(folder)}.{re.sub(r'[^A-Za-z0-9_.-]', '_', stem)}"
