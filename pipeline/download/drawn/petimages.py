"""Drawn cats and dogs as files in the layout of the published data set, its defects included.

draw_petimages(Path("data/raw"), num_photos=1600, seed=0)  # data/raw/PetImages/{Cat,Dog}/N.jpg
photo = draw_photo("cat", np.random.default_rng(0))        # (height, width, 3) in RGB
"""

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PillowImage

from pipeline.cores import usable_cores
from pipeline.download.drawn.anatomy import CAT, DOG
from pipeline.download.drawn.animals import draw_mammal
from pipeline.download.drawn.canvas import Image
from pipeline.download.drawn.other_classes import OTHER_CLASSES
from pipeline.errors import PipelineError
from pipeline.preprocess.fork_server import fork_server
from pipeline.progress import progress

FOLDERS = ("Cat", "Dog")
QUALITIES = (80, 96)  # of the JPEG files, the upper bound exclusive
WORKERS = usable_cores()
PHOTOS_PER_TASK = 8
# Each class has one photo of each of these among its indices below FIRST_CLEAN_INDEX, so that small sets have them too.
DEFECTS = ("empty", "truncated", "duplicate", "cmyk", "grey", "turned 90", "turned 180")
FIRST_DEFECT_INDEX, FIRST_CLEAN_INDEX = 4, 40
EXIF_ORIENTATION = 274
THUMBS_DB = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(504)  # the header of the file that Windows keeps thumbnails in

DRAWERS: dict[str, Callable[[np.random.Generator], Image]] = {
    "cat": partial(draw_mammal, CAT),
    "dog": partial(draw_mammal, DOG),
    **OTHER_CLASSES,
}


def draw_photo(kind: str, rng: np.random.Generator) -> Image:
    """Draw one photo, uint8 RGB of shape (height, width, 3) with sides of 180 to 360 pixels.

    Raises:
        PipelineError: where nobody knows how to draw such a kind.
    """
    if kind not in DRAWERS:
        raise PipelineError(f"cannot draw '{kind}'; the kinds that can be drawn are {', '.join(sorted(DRAWERS))}")
    return DRAWERS[kind](rng)


def draw_petimages(destination: Path, *, num_photos: int, seed: int, workers: int = WORKERS) -> None:
    """Draw cats and dogs as `destination`/PetImages/{Cat,Dog}/N.jpg, with a few defective files among them.

    A file depends on the seed, its class and its index alone. Files that are there already are overwritten.

    Args:
        destination: the folder to put PetImages in; made where it does not exist.
        num_photos: how many files in total, half of them of either class; at least 2.
        seed: of everything random.
        workers: how many processes draw.

    Raises:
        PipelineError: where `num_photos` or `workers` is too small, or a file cannot be written.
    """
    if num_photos < 2 or workers < 1:
        raise PipelineError(f"drawing needs at least 2 photos and 1 worker, not {num_photos} and {workers}")
    tasks = [(folder, index) for index in range((num_photos + 1) // 2) for folder in FOLDERS][:num_photos]
    try:
        for folder in FOLDERS:
            (destination / "PetImages" / folder).mkdir(parents=True, exist_ok=True)
            (destination / "PetImages" / folder / "Thumbs.db").write_bytes(THUMBS_DB)
        write = partial(_write, destination / "PetImages", seed)
        with progress("drawing photos", total=num_photos) as advance, _mapper(workers) as map_tasks:
            for _ in map_tasks(write, tasks):
                advance(1)
    except OSError as error:
        raise PipelineError(f"cannot write the drawn photos to {destination}: {error}") from error


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterator[None]]]:
    """`map` in this process or over a pool; after Ctrl-C nothing is waited for that has not begun."""
    if workers == 1:
        yield map
        return
    context = fork_server(preload=__name__)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,))
    try:
        yield partial(pool.map, chunksize=PHOTOS_PER_TASK)
    finally:
        pool.shutdown(cancel_futures=True)


def _write(root: Path, seed: int, task: tuple[str, int]) -> None:
    folder, index = task
    (root / folder / f"{index}.jpg").write_bytes(photo_file(folder, index, seed))


def photo_file(folder: str, index: int, seed: int) -> bytes:
    """The content of PetImages/`folder`/`index`.jpg for a seed."""
    defect = defects(folder, seed).get(index)
    if defect == "empty":
        return b""
    if defect == "duplicate":
        return photo_file(folder, _clean_index_before(index, folder, seed), seed)
    rng = np.random.default_rng([seed, FOLDERS.index(folder), index])
    photo = draw_photo(folder.lower(), rng)
    quality = int(rng.integers(*QUALITIES))
    if defect in ("cmyk", "grey", "turned 90", "turned 180"):
        return _unusual_jpeg(photo, quality, defect)
    encoded = cv2.imencode(".jpg", cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    content = encoded.tobytes()
    return content[: len(content) // 3] if defect == "truncated" else content


def defects(folder: str, seed: int) -> dict[int, str]:
    """Which indices of a class are defective, and how."""
    rng = np.random.default_rng([seed, FOLDERS.index(folder)])
    indices = rng.permutation(np.arange(FIRST_DEFECT_INDEX, FIRST_CLEAN_INDEX))[: len(DEFECTS)]
    return dict(zip(indices.tolist(), DEFECTS, strict=True))


def _clean_index_before(index: int, folder: str, seed: int) -> int:
    taken = defects(folder, seed)
    return max(earlier for earlier in range(index) if earlier not in taken)


def _unusual_jpeg(photo: Image, quality: int, defect: str) -> bytes:
    """A JPEG in CMYK or in grey, or one whose rows are turned and whose EXIF orientation says so."""
    exif = PillowImage.Exif()
    if defect.startswith("turned"):
        exif[EXIF_ORIENTATION] = 6 if defect == "turned 90" else 3
        photo = np.ascontiguousarray(np.rot90(photo, 1 if defect == "turned 90" else 2))
    picture = PillowImage.fromarray(photo).convert({"cmyk": "CMYK", "grey": "L"}.get(defect, "RGB"))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, exif=exif)
    return file.getvalue()
