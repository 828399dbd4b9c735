"""What the benchmarks share: tables, the command line, photos, and projects in which the stages run."""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from pipeline.checkpoint import Preprocessing
from pipeline.data.dataset import Photos, in_batches, load_batches
from pipeline.data.manifest import classes_of, read_manifest
from pipeline.errors import PipelineError
from pipeline.params import load_params
from pipeline.runtime import ResolvedRuntime, resolve_runtime
from pipeline.training.features import batch_size_on, evaluation

PROJECT = Path(__file__).resolve().parents[1]
RUNS, RESULTS = PROJECT / "benchmarks/.runs", PROJECT / "benchmarks/results"
TRAINING = ("train-frozen-backbone", "unfreeze-finetune")
BATCHES_IN_MEMORY = 8
SECONDS_BETWEEN_LOOKS = 2.0  # at the memory of what is timed: a look reads all of its page tables, which takes 50 ms


def run_command(description: str, measure: Callable[[argparse.Namespace], None], **options: dict[str, Any]) -> None:
    """Parse the command line and measure; what a person can mend ends it with a message.

    Args:
        description: the script's docstring.
        measure: takes what argparse parsed.
        options: name -> arguments of argparse's `add_argument`.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    for name, settings in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **settings)
    try:
        measure(parser.parse_args())
    except PipelineError as error:
        sys.exit(str(error))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def seconds_of(work: Callable[[], object]) -> float:
    """Wall-clock seconds, until a GPU is done too."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def resolved(device: str = "auto", **changes: Any) -> ResolvedRuntime:
    """The runtime of params.yaml with changes."""
    own = load_params(PROJECT / "params.yaml").runtime
    return resolve_runtime(own.model_copy(update={"device": device, **changes}))


def stored_photos(split: str, count: int | None = None) -> Photos:
    """The photos of a split as the preprocess stage left them; `count` of them, the same again where there are fewer."""
    processed = PROJECT / "data/processed"
    manifest = read_manifest(processed)
    photos = Photos.of_split(manifest, processed, split, classes_of(manifest))
    places = [number % len(photos) for number in range(len(photos) if count is None else count)]
    ids, paths = tuple(photos.ids[place] for place in places), tuple(photos.paths[place] for place in places)
    return Photos(ids, paths, photos.labels[places])


def first_batches(photos: Photos, preprocessing: Preprocessing, runtime: ResolvedRuntime) -> list[Tensor]:
    """The first batches as the frozen stage's pass has them, on the device."""
    batches = in_batches(range(len(photos)), batch_size_on(runtime.device))
    loaded = load_batches(photos, evaluation(preprocessing), batches, workers=runtime.workers)
    return [pixels.to(runtime.device) for pixels, _ in itertools.islice(loaded, BATCHES_IN_MEMORY)]


def lend_photos(source: Path, clone: Path) -> Path:
    """Give a clone of the project the stored photos of `source`, another project, and what its stages left about them."""
    (clone / "data").mkdir(exist_ok=True)
    (clone / "data/processed").symlink_to((source / "data/processed").resolve())
    for name in ("metrics", "seconds"):
        shutil.copytree(source / "outputs" / name, clone / "outputs" / name, dirs_exist_ok=True)
    return clone


def run_stage(stage: str, folder: Path, log: Path, threads: int | None = None) -> float:
    """Run one stage in a project, as DVC does; as `run_measured`."""
    return run_measured([sys.executable, "-m", "pipeline", stage], folder, log, threads)


def run_measured(command: Sequence[str], folder: Path, log: Path, threads: int | None = None) -> float:
    """Run a command, its output appended to `log`; the peak of its processes' memory together in MB.

    Raises:
        PipelineError: it failed.
    """
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH", "DVC_STAGE")}
    env |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    peak = 0.0
    with log.open("a", encoding="utf-8") as written:
        process = psutil.Popen(command, cwd=folder, env=env, stdout=written, stderr=subprocess.STDOUT)
        while process.poll() is None:
            with suppress(psutil.Error):  # a process that has just ended
                held = [one.memory_full_info() for one in (process, *process.children(recursive=True))]
                # The proportional set size, in which shared pages count once, where the system has it.
                peak = max(peak, sum(getattr(one, "pss", one.uss) for one in held) / 1e6)
            time.sleep(SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        status = f"{' '.join(command[:4])} ended with status {process.returncode}"
        raise PipelineError(f"{status}. The whole log: {log}. Its end:\n{last}")
    return peak
