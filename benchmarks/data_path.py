"""What preprocessing photos costs beside what it cannot do without, and whether its memory grows with their number.

Speed: the same files, on all cores, alternately and several times, through

    bare      Pillow's decoding, and resizing with the same filter
    needed    besides, what any audit has to do: read and hash the file, hash the pixels, encode what was resized, write
    audit     the audit: all that, checks, the perceptual hash, the journal, the manifest
    stage     the whole preprocess stage: besides, duplicates, split, placing, pictures

Of each, the median of the rounds' ratios to bare is printed, of rates by the clock and of processor time, which other programs
on the machine disturb less. 1 would be an audit that costs nothing beyond decoding and resizing. Nothing is removed before the
end: some file systems pass over the inodes of lately removed files one by one, and creating files would be what is timed.

Memory: the peak of the audit, the grouping and the split, over this process and all its workers together, of few photos and of
many; the many are links to the few.

Imports are made inside the functions, because every worker imports this file, and what that takes is no part of either side.

    python benchmarks/data_path.py                            # drawn photos
    python benchmarks/data_path.py --source photos.zip        # any source that the download stage takes as a path
"""

import argparse
import hashlib
import io
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import forkserver
from pathlib import Path

import psutil
from PIL import Image

from pipeline.cores import usable_cores
from pipeline.preprocess.fork_server import fork_server
from pipeline.preprocess.photo import REDUCING_GAP

STORED_SIZE = 256
CHUNK = 32
SAMPLE_SECONDS = 0.02
FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


def bare(path: Path, *, store: Path | None) -> None:
    """Decode one file and resize it to the stored size; where there is a store, hash it and write it there as well."""
    data = b""
    if store is not None:
        data = path.read_bytes()
        hashlib.sha256(data)
    try:
        with Image.open(io.BytesIO(data) if data else path) as file:
            image = file.convert("RGB")
    except OSError:
        return
    if store is not None:
        hashlib.sha256(image.tobytes())
    scale = STORED_SIZE / min(image.size)
    if scale < 1:
        size = (max(STORED_SIZE, round(image.width * scale)), max(STORED_SIZE, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP)
    if store is None:
        return
    if scale < 1:
        content = io.BytesIO()
        image.save(content, "JPEG", quality=95, subsampling="4:4:4")
        data = content.getvalue()
    (store / f"{path.parent.name}.{path.name}").write_bytes(data)


def run_bare(files: list[Path], store: Path | None) -> None:
    """All files over a pool of the same kind and size as the audit's."""
    context = fork_server(preload="pipeline.preprocess.workers")
    with ProcessPoolExecutor(usable_cores(), mp_context=context) as pool:
        list(pool.map(partial(bare, store=store), files, chunksize=CHUNK))


def run_audit(raw: Path, store: Path) -> None:
    """What the preprocess stage does of decoding."""
    from pipeline.preprocess.audit import audit

    audit(raw, store, stored_size=STORED_SIZE, workers=usable_cores())


def run_stage(raw: Path, project: Path) -> None:
    """The preprocess stage, in a folder of its own."""
    from pipeline.params import load_params
    from pipeline.stages.preprocess import run

    (project / "data").mkdir()
    (project / "data/raw").symlink_to(raw)
    params = load_params()
    os.chdir(project)
    run(params)


def cost(work: Callable[[Path], None], folder: Path) -> tuple[float, float]:
    """Seconds by the clock, and of processor time in this process, the fork server and its workers."""
    started, imports = time.monotonic(), time.process_time()
    work(folder)
    clock = time.monotonic() - started
    forkserver._forkserver._stop()  # type: ignore[attr-defined] # what it and its workers used counts once it has ended
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return clock, sum(usage.ru_utime + usage.ru_stime for usage in used) - imports


def in_a_process(side: str, raw: Path, folder: Path) -> tuple[float, float]:
    """The cost of one side that writes into `folder`, in a fresh process so that all workers end, and are counted, with it."""
    folder.mkdir()
    command = [sys.executable, __file__, "--side", side, "--raw", str(raw), "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    clock, processor = done.stdout.split()[-2:]
    return float(clock), float(processor)


def measure_side(side: str, raw: Path, folder: Path) -> None:
    """Print the two costs of one side."""
    import pipeline.stages.preprocess  # noqa: F401 - what it imports is no part of the cost

    files = sorted(path for path in raw.rglob("*") if path.is_file())
    sides: dict[str, Callable[[Path], None]] = {
        "audit": lambda folder: run_audit(raw, folder),
        "bare": lambda _: run_bare(files, None),
        "needed": lambda folder: run_bare(files, folder),
        "stage": lambda folder: run_stage(raw, folder),
    }
    print(*cost(sides[side], folder))


def peak_memory(raw: Path, store: Path) -> float:
    """The largest sum of what this process and its workers hold, in megabytes, sampled while they work.

    What several of them share, such as libraries, counts once (the proportional set size). The audit of few photos is over
    in half a second, so samples are close together: the peak may last for a tenth of that.
    """
    from pipeline.preprocess.audit import audit
    from pipeline.preprocess.duplicates import group_duplicates
    from pipeline.preprocess.split import assign_splits

    done, peak = threading.Event(), 0.0

    def watch() -> None:
        nonlocal peak
        process = psutil.Process()
        while not done.wait(SAMPLE_SECONDS):
            held = 0
            for each in (process, *process.children(recursive=True)):
                try:
                    held += each.memory_full_info().pss
                except psutil.Error:
                    continue
            peak = max(peak, held / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    manifest = audit(raw, store, stored_size=STORED_SIZE, workers=usable_cores())
    manifest = group_duplicates(manifest, store)
    assign_splits(manifest, FRACTIONS, 0)
    done.set()
    watcher.join()
    return peak


def linked(raw: Path, count: int, target: Path) -> Path:
    """`count` photos that are links to those of `raw`, in turn."""
    for folder in sorted((raw / "PetImages").iterdir()):
        files = sorted(path for path in folder.iterdir() if path.stat().st_size)
        (target / "PetImages" / folder.name).mkdir(parents=True)
        for number in range(count // 2):
            os.link(files[number % len(files)], target / "PetImages" / folder.name / f"{number}.jpg")
    return target


def main() -> None:
    """Print the ratios and the peaks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", type=Path, help="a zip, tar or folder of photos; drawn ones where there is none")
    parser.add_argument("--photos", type=int, default=1000, help="how many photos to time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--memory", type=int, nargs="*", default=[1000, 22_998], help="numbers of photos to compare; none to skip"
    )
    parser.add_argument("--side", choices=["audit", "bare", "needed", "stage", "memory"], help=argparse.SUPPRESS)
    parser.add_argument("--raw", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side == "memory":
        print(peak_memory(arguments.raw, arguments.folder))
    elif arguments.side:
        measure_side(arguments.side, arguments.raw, arguments.folder)
    else:
        compare(arguments.source, arguments.photos, arguments.rounds, arguments.memory)


def compare(source: Path | None, photos: int, rounds: int, memory: list[int]) -> None:
    """Time both sides alternately, then look at memory."""
    from pipeline.download.archive import unpack_photos
    from pipeline.download.drawn.petimages import draw_petimages

    with tempfile.TemporaryDirectory() as temporary:
        everything = Path(temporary, "raw")
        if source is None:
            draw_petimages(everything, num_photos=photos, seed=0)
        else:
            unpack_photos(source, everything)
        raw = linked(everything, photos, Path(temporary, "timed"))
        costs: dict[str, list[tuple[float, float]]] = {"bare": [], "needed": [], "audit": [], "stage": []}
        for number in range(rounds):
            for side in sorted(costs, reverse=bool(number % 2)):
                costs[side].append(in_a_process(side, raw, Path(temporary, f"{side}{number}")))
        print(f"{photos:,} photos, {usable_cores()} cores, {rounds} rounds")
        for side in costs:
            clock, processor = (statistics.median(values) for values in zip(*costs[side], strict=True))
            ratios = [
                statistics.median(one[index] / other[index] for one, other in zip(costs["bare"], costs[side], strict=True))
                for index in (0, 1)
            ]
            print(
                f"{side:8} {photos / clock:6.0f} photos/s by the clock ({ratios[0]:.2f} of bare's rate), "
                f"{processor / photos * 1000:.2f} ms of processor a photo ({ratios[1]:.2f})"
            )
        peaks = [_peak(everything, count, Path(temporary, str(count))) for count in memory]
        for count, peak in zip(memory, peaks, strict=True):
            print(f"peak memory of {count:,} photos: {peak:.0f} MB ({peak / peaks[0]:.2f})")


def _peak(raw: Path, count: int, folder: Path) -> float:
    store = folder.with_name(f"{folder.name}.store")
    command = [sys.executable, __file__, "--side", "memory", "--raw", str(linked(raw, count, folder)), "--folder", str(store)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
