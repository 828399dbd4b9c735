"""How busy a GPU is kept: passes and steps from stored photos, beside the same network on tensors that it holds already.

    uv run python benchmarks/gpu.py                                      # after `dvc repro preprocess`
    uv run python benchmarks/gpu.py --backbones resnet50 --photos 16384

Networks have random weights, because speed does not ask for others. For each there are three pairs of rates: the pass over the
photos (file -> feature) beside the bare backend, and a training epoch, of the topmost blocks from what the frozen ones made of
the photos and of the whole network from the files, beside steps on batches that lie on the device. Bare rates are measured
before and after, and their mean is taken. The project's aim is a ratio of at least 0.8.

The second table, with --compiled, says whether folding BatchNorm and `torch.compile` pay: milliseconds of a step, seconds until
the first one is done, and after how many steps the compiled network has made up for its compilation.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from scaling import take

from pipeline.data.dataset import Batch, Photos, evaluation_batches
from pipeline.data.manifest import classes_of, read_manifest
from pipeline.data.transforms import evaluation_pixels
from pipeline.errors import PipelineError
from pipeline.models.backbone import Backbone, create_backbone
from pipeline.models.folding import fold_batch_norm, unfold_batch_norm
from pipeline.models.head import replace_head
from pipeline.params import UnfreezeFinetune, load_params
from pipeline.paths import PROCESSED
from pipeline.runtime import ResolvedRuntime, machine_name, resolve_runtime
from pipeline.training.depth import with_depth
from pipeline.training.features import FeatureExtractor, Kept, backend_for, batch_size_on, run_over
from pipeline.training.finetune import Trainer
from pipeline.training.task import Task
from pipeline.training.trunk import random_images

BARE_BATCHES = 8  # that lie on the device
BARE_STEPS = 100
STEPS_TIMED = 50


def seconds(work: Callable[[], object]) -> float:
    """By the clock, until the device is done."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def rates(whole: Callable[[], object], photos: int, bare: Callable[[], int]) -> tuple[float, float]:
    """Photos a second of `whole`, and of `bare`, which returns how many it took, around it."""
    taken = bare()  # and warmed up
    before = seconds(bare)
    rate = photos / seconds(whole)
    return rate, 2 * taken / (before + seconds(bare))


def of_pass(backbone: Backbone, photos: Photos, runtime: ResolvedRuntime) -> tuple[float, float]:
    """From the file to the feature, beside the backend."""
    preprocessing = backbone.preprocessing
    backend = backend_for(FeatureExtractor(backbone.model).eval(), photos, preprocessing, choice="auto", runtime=runtime)
    size = batch_size_on(runtime.device)
    loaded = evaluation_batches(photos, evaluation_pixels(preprocessing), batch_size=size, workers=runtime.workers)
    batches = [pixels.to(runtime.device) for pixels, _ in itertools.islice(loaded, BARE_BATCHES)]

    def bare() -> int:
        for batch in batches * (BARE_STEPS // BARE_BATCHES):
            backend.run(batch)
        return sum(map(len, batches)) * (BARE_STEPS // BARE_BATCHES)

    def whole() -> object:
        return run_over(backend.run, photos, preprocessing, runtime=runtime, description="features")

    return rates(whole, len(photos), bare)


def of_training(trainer: Trainer) -> tuple[float, float]:
    """An epoch as training makes it, beside the same steps on batches that lie on the device."""
    device, size = trainer.runtime.device, trainer.settings.batch_size
    trainer.model.train()
    held = [(images.to(device), labels.to(device)) for images, labels in itertools.islice(trainer._batches(1), BARE_BATCHES)]

    def bare() -> int:
        for step, (images, labels) in enumerate(itertools.islice(itertools.cycle(held), BARE_STEPS)):
            trainer._step(step, images, labels, size)
        return BARE_STEPS * size

    def whole() -> None:
        for step, (images, labels) in enumerate(trainer._batches(1)):
            trainer._step(step, images, labels, len(images))

    return rates(whole, len(trainer.train), bare)


def step_seconds(trainer: Trainer, batch: Batch) -> tuple[float, float]:
    """Seconds before the first step is done, and of a step from then on."""
    images, labels = (part.to(trainer.runtime.device) for part in batch)

    def steps(count: int) -> None:
        for step in range(count):
            trainer._step(step, images, labels, len(images))

    trainer.model.train()
    first = seconds(lambda: steps(1))
    steps(3)
    return first, statistics.median(seconds(lambda: steps(STEPS_TIMED)) / STEPS_TIMED for _ in range(3))


def fresh(name: str, num_classes: int, task: Task) -> Trainer:
    """A training of a network with random weights."""
    model = create_backbone(name, "none").model
    replace_head(model, num_classes)
    return Trainer(model, task)


def kept_under(folder: Path) -> Callable[[str], Kept]:
    """Places in a folder by what they hold."""
    return lambda part: Kept(folder, part=part)


def line_of_variants(make: Callable[[], Trainer]) -> str:
    """Of one kind of training in the second table: as it is, without folding, and compiled."""
    trainer = make()
    batch = next(iter(trainer._batches(1)))
    unfold_batch_norm(trainer.model)
    _, plain = step_seconds(trainer, batch)
    fold_batch_norm(trainer.model, random_images(trainer.task.preprocessing).to(trainer.runtime.device))
    _, folded = step_seconds(trainer, batch)
    trainer = make()
    unfold_batch_norm(trainer.model)
    (trainer.trunk.upper if trainer.trunk else trainer.model).compile()
    first, quick = step_seconds(trainer, batch)
    gained = min(folded, plain) - quick
    after = f"{first / gained:,.0f} steps" if gained > 0 else "never"
    return f"{1000 * folded:.1f} | {1000 * plain:.1f} | {1000 * quick:.1f} | {first:.0f} | {after}"


def measure(given: argparse.Namespace) -> None:
    """Both tables."""
    manifest = read_manifest(PROCESSED)
    params, classes = load_params(), classes_of(manifest)
    runtime = resolve_runtime(params.runtime)
    if runtime.device.type != "cuda":
        raise PipelineError("There is no CUDA device here: this benchmark is about one.")
    photos = take(Photos.of_split(manifest, PROCESSED, "train", classes), given.photos)
    val = Photos.of_split(manifest, PROCESSED, "val", classes)
    print(f"{len(photos):,} photos, {runtime.workers} workers, {machine_name(runtime.device, runtime.threads)}")
    print("| | photos/s | on the device already | ratio |\n| --- | --- | --- | --- |", flush=True)
    second = []
    for name in given.backbones:
        backbone = create_backbone(name, "none")
        kinds: dict[str, UnfreezeFinetune] = {
            "upper blocks": with_depth(params.unfreeze_finetune, backbone.model, backbone.preprocessing),
            "whole network": params.unfreeze_finetune.model_copy(update={"unfrozen_blocks": "all"}),
        }
        show(f"{name}, pass", of_pass(backbone, photos, runtime))
        for (kind, own), size in itertools.product(kinds.items(), given.batch_sizes):
            settings = own.model_copy(update={"batch_size": size, "learning_rate": 1e-6})
            task = Task(photos, val, backbone.preprocessing, settings, runtime)
            what = f"{name}, {kind}, {size} a step"
            with TemporaryDirectory() as folder:  # where what the frozen blocks made is kept, as between epochs
                kept = replace(task, keep=kept_under(Path(folder)))
                show(what, of_training(fresh(name, len(classes), kept)))
            if given.compiled:
                few = replace(task, train=photos[: 2 * size])
                second.append(f"| {what} | {line_of_variants(partial(fresh, name, len(classes), few))} |")
    if second:
        print("\n| | ms a step, folded | not folded | compiled | seconds to compile | pays after |\n|" + " --- |" * 6)
        print("\n".join(second))


def show(what: str, measured: tuple[float, float]) -> None:
    """A line of the first table, as soon as it is known."""
    ours, bare = measured
    print(f"| {what} | {ours:,.0f} | {bare:,.0f} | {ours / bare:.2f} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", default=["mobilenetv2_100", "resnet50", "convnext_tiny"])
    parser.add_argument("--photos", type=int, default=8192, help="taken again where fewer are stored")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[load_params().unfreeze_finetune.batch_size, 128])
    parser.add_argument("--compiled", action="store_true", help="print the second table too")
    try:
        measure(parser.parse_args())
    except PipelineError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
