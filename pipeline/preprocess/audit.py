"""The audit: every file under RAW/PetImages is examined once, stored where it is a photo, and gets one manifest row.

The work is done by worker processes. A journal beside the stored photos records every finished file, so that an audit
that was killed goes on where it stopped. The manifest depends neither on the number of workers nor on the files' order.
"""

from pathlib import Path

import pandas as pd
import pyarrow

from pipeline.errors import PipelineError
from pipeline.files import check_room
from pipeline.preprocess.journal import Journal
from pipeline.preprocess.listing import PHOTOS_FOLDER, class_folders, class_of, find_tasks
from pipeline.preprocess.photo import Task, blank_row
from pipeline.preprocess.workers import examine_all
from pipeline.progress import progress, say

COLUMNS = tuple(blank_row(Task("", "", "", "", "", 0, 0, 0), ""))


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
        remaining = journal.remaining()
        check_room(store, sum(_room(tasks[place]) for place in remaining), f"store the photos of {raw}")
        if len(remaining) < len(tasks):
            say(f"auditing photos: {len(tasks) - len(remaining):,} of {len(tasks):,} were finished before")
        with progress("auditing photos", total=len(remaining)) as advance:
            for finished in examine_all((tasks[place] for place in remaining), workers):
                journal.append(finished)
                advance(len(finished))
        manifest = _in_a_frame(journal)
    _check_classes(manifest, raw)
    return manifest


def _in_a_frame(journal: Journal) -> pd.DataFrame:
    """All rows. As a frame, texts packed, they take a tenth of what they would as dicts."""
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # the default one keeps what was freed in passing
    return pd.concat((pd.DataFrame(rows, columns=list(COLUMNS)) for rows in journal.rows()), ignore_index=True)


def _room(task: Task) -> int:
    """Bytes that a stored photo takes at most, but for rare ones: twice the file's, and one a pixel of a square."""
    return min(2 * task.size, task.stored_size**2)


def _check_classes(manifest: pd.DataFrame, raw: Path) -> None:
    """Refuse to go on where a folder of `raw`/PetImages brought no usable photo."""
    top, refused = raw / PHOTOS_FOLDER, manifest["status"] == "refused"
    if refused.all():
        reasons = ", ".join(manifest["reason"].str.split(": ").str[0].unique()[:5])
        raise PipelineError(f"None of the {len(manifest):,} files under {top} is a usable photo. {reasons}".rstrip())
    classes = {class_of(folder.name) for folder in class_folders(raw)}
    empty = ", ".join(sorted(classes - set(manifest["class"][~refused])))
    if empty:
        raise PipelineError(f"{top} holds no usable photo of the class {empty}. Add photos, or remove the folder.")
