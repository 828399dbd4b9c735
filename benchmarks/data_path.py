"""Cost of the preprocess stage against bare decoding and resizing of the same files, and its memory by number of photos.

    uv run python benchmarks/data_path.py                        # drawn photos
    uv run python benchmarks/data_path.py --source photos.zip    # any archive that the download stage takes

bare: Pillow's decoding and resizing, a process a core. stage: the whole stage by its own clock, which also hashes, looks for
duplicates, encodes and writes. They take turns; memory is the peak of the stage's processes, of few photos and of many, which
are links to the few. Where creating files is slow, set TMPDIR=/dev/shm.
"""

import argparse
import os
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from common import PROJECT, rates_table, run_command, run_stage, table
from PIL import Image

from pipeline.cores import usable_cores
from pipeline.download.drawn import draw_petimages
from pipeline.download.unpack import unpack_photos
from pipeline.files import read_json
from pipeline.params import change_params

STORED_SIZE = 256
CHUNK = 32


def decode(path: Path) -> None:
    """Decode one file and resize it to the stored size."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except OSError:
        return
    scale = STORED_SIZE / min(image.size)
    if scale < 1:
        size = round(image.width * scale), round(image.height * scale)
        image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)


def bare_seconds(raw: Path) -> float:
    """All files over a process a core, their start not counted."""
    files = sorted(path for path in raw.rglob("*") if path.is_file())
    with ProcessPoolExecutor(usable_cores(), mp_context=get_context("forkserver")) as pool:
        list(pool.map(decode, files[: 2 * usable_cores()]))
        started = time.monotonic()
        list(pool.map(decode, files, chunksize=CHUNK))
        return time.monotonic() - started


def stage(raw: Path, folder: Path) -> tuple[float, float]:
    """Seconds of the preprocess stage in a project of its own, and its peak memory in MB."""
    (folder / "data").mkdir(parents=True)
    (folder / "data/raw").symlink_to(raw)
    (folder / "pipeline").symlink_to(PROJECT / "pipeline")
    shutil.copy(PROJECT / "params.yaml", folder)
    change_params(folder / "params.yaml", {"preprocess.stored_size": STORED_SIZE})
    peak = run_stage("preprocess", folder, folder / "log.txt")
    return read_json(folder / "outputs/seconds/preprocess.json")["seconds"], peak


def linked(raw: Path, count: int, target: Path) -> Path:
    """`count` photos that are links to those of `raw`, in turn."""
    for folder in sorted((raw / "PetImages").iterdir()):
        files = sorted(path for path in folder.iterdir() if path.stat().st_size)
        (target / "PetImages" / folder.name).mkdir(parents=True)
        for number in range(count // 2):
            os.link(files[number % len(files)], target / "PetImages" / folder.name / f"{number}.jpg")
    return target


def measure(given: argparse.Namespace) -> None:
    """Time all sides alternately, then look at memory."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, everything = Path(temporary), Path(temporary, "everything")
        if given.source is None:
            draw_petimages(everything, num_photos=given.photos, seed=0)
        else:
            unpack_photos(given.source, everything)
        raw = linked(everything, given.photos, folder / "timed")
        seconds: dict[str, list[float]] = {"bare": [], "stage": []}
        for number in range(given.rounds):
            seconds["bare"].append(bare_seconds(raw))
            seconds["stage"].append(stage(raw, folder / f"stage{number}")[0])
        print(f"{given.photos:,} photos, {usable_cores()} cores, {given.rounds} rounds")
        print(rates_table(("", "photos/s", "ratio to bare"), given.photos, seconds))
        peaks = []
        for count in given.memory:
            _, peak = stage(linked(everything, count, folder / f"{count}"), folder / f"memory{count}")
            peaks.append((f"{count:,}", f"{peak:.0f} MB"))
        print(table(("photos", "peak memory"), peaks))


if __name__ == "__main__":
    run_command(
        __doc__,
        measure,
        source={"type": Path, "help": "a zip or tar of photos; drawn ones where there is none"},
        photos={"type": int, "default": 1000, "help": "how many photos to time"},
        rounds={"type": int, "default": 5},
        memory={"type": int, "nargs": "*", "default": [1000, 22_998], "help": "numbers of photos to compare"},
    )
