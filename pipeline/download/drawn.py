"""Drawn cats and dogs as files in the layout of the published data set, its defects included, so that no stage needs a network.

draw_petimages(Path("data/raw"), num_photos=1600, seed=0)  # data/raw/PetImages/{Cat,Dog}/N.jpg
"""

import io
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from random import Random

from PIL import Image

from pipeline.cores import usable_cores
from pipeline.download.drawn_photo import draw_photo
from pipeline.files import cannot_write
from pipeline.progress import progress

FOLDERS = ("Cat", "Dog")
QUALITIES = (80, 95)  # of the JPEG files
WORKERS = usable_cores()
# Each class has one photo of each of these among its indices below FIRST_CLEAN_INDEX, so that small sets have them too.
DEFECTS = ("empty", "truncated", "duplicate", "cmyk", "grey", "turned 90", "turned 180")
FIRST_DEFECT_INDEX, FIRST_CLEAN_INDEX = 4, 40
EXIF_ORIENTATION = 274
TURNS = {"turned 90": (Image.Transpose.ROTATE_90, 6), "turned 180": (Image.Transpose.ROTATE_180, 3)}
THUMBS_DB = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(504)  # the header of the file that Windows keeps thumbnails in


def draw_petimages(destination: Path, *, num_photos: int, seed: int, workers: int = WORKERS) -> None:
    """Draw cats and dogs as `destination`/PetImages/{Cat,Dog}/N.jpg, with a few defective files among them.

    A file depends on the seed, its class and its index alone. Files that are there already are overwritten. Half of the
    `num_photos` files are cats. `workers` is the number of processes that draw. A PipelineError says that a file cannot be
    written.
    """
    tasks = [(folder, index) for index in range((num_photos + 1) // 2) for folder in FOLDERS][:num_photos]
    root = destination / "PetImages"
    try:
        for folder in FOLDERS:
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / "Thumbs.db").write_bytes(THUMBS_DB)
        with progress("drawing photos", total=num_photos) as advance, _pool(workers) as pool:
            for _ in pool.map(partial(_write, root, seed), tasks, chunksize=8):
                advance(1)
                if signal.sigpending():  # Ctrl-C, which is raised where the pool ends
                    break
    except OSError as error:
        raise cannot_write(destination, error) from error


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes. Ctrl-C waits until they are gone: in the midst of the executor it could leave a lock held for ever."""
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    resource_tracker.ensure_running()  # first, because starting it unblocks the signal again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # workers inherit that
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _write(root: Path, seed: int, task: tuple[str, int]) -> None:
    folder, index = task
    (root / folder / f"{index}.jpg").write_bytes(photo_file(folder, index, seed))


def photo_file(folder: str, index: int, seed: int) -> bytes:
    """The content of PetImages/`folder`/`index`.jpg for a seed."""
    taken = defects(folder, seed)
    defect = taken.get(index, "")
    if defect == "empty":
        return b""
    if defect == "duplicate":
        return photo_file(folder, max(earlier for earlier in range(index) if earlier not in taken), seed)
    random = random_of(folder, index, seed)
    photo = draw_photo(folder.lower(), random)
    exif = Image.Exif()
    if defect in TURNS:  # the rows are turned, and the EXIF orientation says so
        turn, exif[EXIF_ORIENTATION] = TURNS[defect]
        photo = photo.transpose(turn)
    mode = {"cmyk": "CMYK", "grey": "L"}.get(defect, "RGB")
    file = io.BytesIO()
    photo.convert(mode).save(file, "JPEG", quality=random.randint(*QUALITIES), exif=exif)
    content = file.getvalue()
    return content[: len(content) // 3] if defect == "truncated" else content


def random_of(folder: str, index: int | str, seed: int) -> Random:
    """The random numbers that decide one photo."""
    return Random(f"{seed} {folder} {index}")


def defects(folder: str, seed: int) -> dict[int, str]:
    """Which indices of a class are defective, and how."""
    indices = random_of(folder, "defects", seed).sample(range(FIRST_DEFECT_INDEX, FIRST_CLEAN_INDEX), len(DEFECTS))
    return dict(zip(indices, DEFECTS, strict=True))
