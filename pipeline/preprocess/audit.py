"""The audit: every file under RAW/PetImages is decoded once, stored where it is a photo, and gets one manifest row."""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pandas as pd

from pipeline.errors import PipelineError
from pipeline.files import check_room, printable, recover_folder
from pipeline.preprocess.photo import Task, examine_all
from pipeline.progress import progress

PHOTOS_FOLDER = "PetImages"
MAX_STEM = 100
MAX_SLUG_BYTES = 100  # of 255 that a file's name may have


def audit(raw: Path, store: Path, *, stored_size: int, workers: int) -> pd.DataFrame:
    """Examine every file under `raw`/PetImages/CLASS and store the photos as `store`/class/ID.jpg.

    Returns one row a file, sorted by path, whatever the number of workers. `status` is "kept", "repaired" (decoded in full, but
    something had to be done; `reason` says what, separated by "; ") or "refused" (`reason` says why). In a reason, details
    stand behind ": ". Width and height are those of the upright photo, and `stored_size` is the upper bound of a stored photo's
    shorter side, in pixels. Beside the manifest's columns there is `thumbnail`, for `group_duplicates`. A PipelineError says
    that fewer than two classes have files, or there is no room.
    """
    recover_folder(raw)
    tasks = find_tasks(raw, store, stored_size)
    for label in {task.label for task in tasks}:
        (store / label).mkdir(parents=True, exist_ok=True)
    # A stored photo takes at most twice the file's bytes or one byte a pixel of a square, but for rare ones.
    check_room(store, sum(min(2 * task.size, stored_size**2) for task in tasks), f"store the photos of {raw}")
    rows = []
    with progress("auditing photos", total=len(tasks)) as advance:
        for row in examine_all(tasks, workers):
            rows.append(row)
            advance()
    return pd.DataFrame(rows).sort_values("path", ignore_index=True)


def find_tasks(raw: Path, store: Path, stored_size: int) -> list[Task]:
    """List the files of all classes, each with an id.

    A class is named as its folder is, in Unicode's composed form (NFC). The id is the class in lower case, a dot and the
    file's name without extension: PetImages/Cat/0.jpg is cat.0. Where several files would get the same id, also on a file
    system that ignores case, all of them get a digest of their path appended: C#/0.jpg and C+/0.jpg are c_.0-DIGEST.
    """
    top, store = (raw / PHOTOS_FOLDER).absolute(), store.absolute()  # workers have the folder that Python was started in
    files = sorted(file for file in top.glob("*/*") if file.is_file())
    labels = [printable(unicodedata.normalize("NFC", file.parent.name)) for file in files]
    if (found := len(set(labels))) < 2:
        raise PipelineError(
            f"{raw / PHOTOS_FOLDER} holds files of {found} classes, and two or more are needed. Run: dvc repro download"
        )
    stems = [os.path.splitext(file.name)[0][:MAX_STEM] for file in files]
    slugs = [re.sub(r"[^\w.-]", "_", label.lower()).encode()[:MAX_SLUG_BYTES].decode(errors="ignore") for label in labels]
    ids = [f"{slug}.{re.sub(r'[^A-Za-z0-9_.-]', '_', stem)}" for slug, stem in zip(slugs, stems, strict=True)]
    times = Counter(photo.lower() for photo in ids)
    tasks = []
    for file, label, photo in zip(files, labels, ids, strict=True):
        path = f"{PHOTOS_FOLDER}/{file.parent.name}/{file.name}"
        if times[photo.lower()] > 1:
            photo = f"{photo}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
        stored = f"{store}/{label}/{photo}.jpg"
        tasks.append(Task(str(file), stored, photo, printable(path), label, file.stat().st_size, stored_size))
    return tasks
