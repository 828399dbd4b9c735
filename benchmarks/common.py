"""What the benchmarks share: turns, tables, projects in which the stages run, and all calls into the training code.

Imports are made inside the functions, so that each benchmark's --help answers at once.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.checkpoint import Preprocessing
    from pipeline.data.dataset import Photos
    from pipeline.models.backends import Backend
    from pipeline.runtime import ResolvedRuntime

PROJECT = Path(__file__).resolve().parents[1]
RUNS, RESULTS = PROJECT / "benchmarks/.runs", PROJECT / "benchmarks/results"
TRAINING = ("train-frozen-backbone", "unfreeze-finetune")
BATCHES_IN_MEMORY = 8


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def backbone_options(parser: argparse.ArgumentParser) -> None:
    """--backbone and --weights; see `backbone_of`."""
    parser.add_argument("--backbone", help="timm's name; that of params.yaml where it is left out")
    parser.add_argument("--weights", help="as backbone.weights in params.yaml, which is taken where it is left out")


def backbone_of(given: argparse.Namespace) -> Any:
    """The `Backbone` that the options name."""
    from pipeline.models.backbone import create_backbone
    from pipeline.params import load_params
    from pipeline.paths import user_path

    own = load_params(PROJECT / "params.yaml").backbone
    return create_backbone(given.backbone or own.name, given.weights or own.weights, locate=user_path)


def seconds_of(work: Callable[[], object]) -> float:
    """Wall-clock seconds, until a GPU is done too."""
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def in_turns(works: Mapping[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Seconds of each in every turn, after one that warms up: a machine that slows down slows all of them."""
    taken = [{name: seconds_of(work) for name, work in works.items()} for _ in range(1 + turns)][1:]
    return {name: [turn[name] for turn in taken] for name in works}


def median_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Median over the turns of the first's seconds over the second's in the same turn."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def resolved(device: str = "auto", **changes: Any) -> ResolvedRuntime:
    """The runtime of params.yaml with changes."""
    from pipeline.params import load_params
    from pipeline.runtime import resolve_runtime

    own = load_params(PROJECT / "params.yaml").runtime
    return resolve_runtime(own.model_copy(update={"device": device, **changes}))


def stored_photos(split: str, count: int | None = None) -> Photos:
    """The photos of a split as the preprocess stage left them; `count` of them, the same again where there are fewer."""
    from pipeline.data.dataset import Photos
    from pipeline.data.manifest import classes_of, read_manifest

    processed = PROJECT / "data/processed"
    manifest = read_manifest(processed)
    photos = Photos.of_split(manifest, processed, split, classes_of(manifest))
    if count is None:
        return photos
    places = [number % len(photos) for number in range(count)]
    ids, paths = tuple(photos.ids[place] for place in places), tuple(photos.paths[place] for place in places)
    return Photos(ids, paths, photos.labels[places])


# Calls into pipeline/training and what it is made of.


def feature_backend(
    model: nn.Module, photos: Photos, preprocessing: Preprocessing, runtime: ResolvedRuntime, *, choice: str = "auto"
) -> Backend:
    """What computes the frozen stage's features, from pixels (n, height, width, channels) uint8."""
    from pipeline.models.outputs import FeatureExtractor
    from pipeline.training.features import backend_for

    return backend_for(FeatureExtractor(model).eval(), photos, preprocessing, choice=choice, runtime=runtime)


def checkpoint_backend(checkpoint: Path, photos: Photos, runtime: ResolvedRuntime) -> tuple[Backend, Preprocessing]:
    """A checkpoint's network in float32, from pixels as they are loaded, and its preprocessing."""
    from pipeline.checkpoint import read_info, read_model_state
    from pipeline.models.backbone import rebuild
    from pipeline.training.features import backend_for

    info = read_info(checkpoint)
    model = rebuild(info, read_model_state(checkpoint)).eval()
    return backend_for(model, photos, info.preprocessing, choice="auto", runtime=runtime, float32=True), info.preprocessing


def pass_over(backend: Backend, photos: Photos, preprocessing: Preprocessing, runtime: ResolvedRuntime) -> Tensor:
    """What a backend gives for every photo, from the stored file on."""
    from pipeline.training.features import evaluation, run_inference

    return run_inference(backend.run, photos, evaluation(preprocessing), runtime=runtime, description="photos")[0].tensor()


def first_batches(photos: Photos, preprocessing: Preprocessing, runtime: ResolvedRuntime) -> list[Tensor]:
    """The first batches as the frozen stage's pass has them, on the device."""
    from pipeline.data.dataset import in_batches, load_batches
    from pipeline.training.features import batch_size_on, evaluation

    batches = in_batches(range(len(photos)), batch_size_on(runtime.device))
    loaded = load_batches(photos, evaluation(preprocessing), batches, workers=runtime.workers)
    return [pixels.to(runtime.device) for pixels, _ in itertools.islice(loaded, BATCHES_IN_MEMORY)]


def fine_tuned_parameters(model: nn.Module, preprocessing: Preprocessing) -> list[str]:
    """Names of the parameters that fine-tuning changes by default; `model` has its new head already."""
    from pipeline.models.freezing import auto_unfrozen_blocks, set_trainable

    set_trainable(model, auto_unfrozen_blocks(model, preprocessing.input_size))
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


# Projects in which the stages run as DVC runs them.


def lend_photos(source: Path, clone: Path) -> Path:
    """Give a clone of the project the stored photos of `source`, another project, and what its stages left about them."""
    (clone / "data").mkdir(exist_ok=True)
    (clone / "data/processed").symlink_to((source / "data/processed").resolve())
    for name in ("metrics", "seconds"):
        shutil.copytree(source / "outputs" / name, clone / "outputs" / name, dirs_exist_ok=True)
    return clone


def run_stage(stage: str, folder: Path, log: Path, threads: int | None = None) -> float:
    """Run one stage in a project; as `run_measured`."""
    return run_measured([sys.executable, "-m", "pipeline", stage], folder, log, threads)


def run_measured(command: Sequence[str], folder: Path, log: Path, threads: int | None = None) -> float:
    """Run a command, its output appended to `log`; the peak of its processes' memory together in MB.

    Raises:
        PipelineError: it failed.
    """
    import psutil

    from pipeline.errors import PipelineError

    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH", "DVC_STAGE")}
    env |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    peak, done = 0.0, threading.Event()

    def watch(root: psutil.Process) -> None:
        nonlocal peak
        while not done.wait(0.1):
            with suppress(psutil.Error):  # a process that has just ended
                held = [one.memory_full_info() for one in (root, *root.children(recursive=True))]
                # The proportional set size, in which shared pages count once, where the system has it.
                peak = max(peak, sum(getattr(one, "pss", one.uss) for one in held) / 1e6)

    with log.open("a", encoding="utf-8") as written:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=written, stderr=subprocess.STDOUT)
        watcher = threading.Thread(target=watch, args=[psutil.Process(process.pid)])
        watcher.start()
        try:
            status = process.wait()
        finally:
            process.kill()
            done.set()
            watcher.join()
    if status:
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        raise PipelineError(f"{' '.join(command[:4])} ended with status {status}. The whole log: {log}. Its end:\n{last}")
    return peak


def run_or_exit(work: Callable[[], None]) -> None:
    """Run a benchmark; what a person can mend ends it with a message."""
    from pipeline.errors import PipelineError

    try:
        work()
    except PipelineError as error:
        sys.exit(str(error))
