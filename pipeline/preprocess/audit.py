"""The audit: every file under RAW/PetImages is decoded once, stored where it is a photo, and gets one manifest row.

manifest = audit(Path("data/raw"), Path("data/.audited"), stored_size=256, workers=2)
"""

import hashlib
import os
import re
from collections import Counter
from pathlib import Path

import pandas as pd

from pipeline.errors import PipelineError
from pipeline.files import check_room
from pipeline.preprocess.photo import Row, Task
from pipeline.preprocess.workers import examine_all
from pipeline.progress import progress

PHOTOS_FOLDER = "PetImages"
MAX_STEM = 100
ROWS_PER_FRAME = 2000
CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # a file name may hold line breaks; a line of the manifest may not


def audit(raw: Path, store: Path, *, stored_size: int, workers: int) -> pd.DataFrame:
    """Examine every file under `raw`/PetImages/CLASS and store the photos as `store`/class/ID.jpg.

    Args:
        raw: the folder that holds PetImages.
        store: folder for the stored photos; created if need be.
        stored_size: upper bound of a stored photo's shorter side, in pixels.
        workers: how many processes decode.

    Returns:
        One row a file, sorted by path, whatever the number of workers. `status` is "kept", "repaired" (decoded in full, but
        something had to be done; `reason` says what, separated by "; ") or "refused" (`reason` says why). In a reason,
        details stand behind ": ". Width and height are those of the upright photo, in pixels. Beside the manifest's columns
        there is `thumbnail`, for `group_duplicates`.

    Raises:
        PipelineError: there is no photo folder, less than two classes, a class without a file, or no room.
    """
    tasks = find_tasks(raw, store, stored_size)
    for folder in {store} | {store / task.label for task in tasks}:
        folder.mkdir(parents=True, exist_ok=True)
    # A stored photo takes at most twice the file's bytes or one byte a pixel of a square, but for rare ones.
    room = sum(min(2 * task.size, stored_size**2) for task in tasks)
    check_room(store, room, f"store the photos of {raw}")
    rows: list[Row] = []
    frames: list[pd.DataFrame] = []  # packed, rows take less memory than as dicts
    with progress("auditing photos", total=len(tasks)) as advance:
        for finished in examine_all(tasks, workers):
            rows += finished
            advance(len(finished))
            if len(rows) >= ROWS_PER_FRAME:
                frames.append(pd.DataFrame(rows))
                rows.clear()
    return pd.concat([*frames, pd.DataFrame(rows)]).sort_values("path", ignore_index=True)


def find_tasks(raw: Path, store: Path, stored_size: int) -> list[Task]:
    """List the files of all classes, sorted by path, each with an id.

    The id is the class, a dot and the file's name without extension: PetImages/Cat/0.jpg is cat.0. Where several files
    would get the same id, also on a file system that ignores case, all of them get a digest of their path appended.
    `store` and `stored_size` are those of `audit`, which raises the same errors.
    """
    top = raw / PHOTOS_FOLDER
    if not top.is_dir():
        raise PipelineError(f"There is no folder {top}. Run the download stage, or put one folder a class there.")
    classes = {_class_of(folder.name) for folder in top.iterdir() if folder.is_dir()}
    if len(classes) < 2:
        raise PipelineError(f"{top} holds {len(classes)} class folder(s); a classifier needs two or more classes.")
    names = sorted(_files(top), key=os.fsencode)
    if empty := ", ".join(sorted(classes - {_class_of(name.partition("/")[0]) for name in names})):
        raise PipelineError(f"{top} has no file in the folder of {empty}. Add photos, or remove the folder.")
    ids = [_plain_id(name) for name in names]
    times = Counter(photo.lower() for photo in ids)
    tasks = []
    for name, photo in zip(names, ids, strict=True):
        path = os.fsencode(f"{PHOTOS_FOLDER}/{name}")
        if times[photo.lower()] > 1:
            photo = f"{photo}-{hashlib.sha256(path).hexdigest()[:12]}"
        shown = CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", path.decode("utf-8", "backslashreplace"))
        label, source = _class_of(name.partition("/")[0]), f"{top}/{name}"
        tasks.append(Task(source, f"{store}/{label}/{photo}.jpg", photo, shown, label, os.path.getsize(source), stored_size))
    return tasks


def _class_of(folder: str) -> str:
    """The class that a folder's name stands for: lower-case, and safe as a file name."""
    return re.sub(r"[^\w.-]", "_", folder.lower())


def _files(top: Path) -> list[str]:
    """Paths, relative to `top`, of all files in its folders."""
    found = (os.path.join(parent, name) for folder in top.iterdir() for parent, _, names in os.walk(folder) for name in names)
    return [path[len(str(top)) + 1 :] for path in found if os.path.isfile(path)]


def _plain_id(path: str) -> str:
    """Cat/0.jpg -> cat.0; folders inside a class become part of the name."""
    folder, *parents, name = path.split("/")
    stem = "_".join([*parents, os.path.splitext(name)[0]])[:MAX_STEM]
    return f"{_class_of(folder)}.{re.sub(r'[^A-Za-z0-9_.-]', '_', stem)}"
