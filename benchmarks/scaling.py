"""How the frozen stage's pass over the photos scales with their number, the input size and the workers that decode.

    uv run python benchmarks/scaling.py                                        # the backbone of params.yaml
    uv run python benchmarks/scaling.py --photos 500 22998 --sizes 160 224 --workers 0 1 2
    uv run python benchmarks/scaling.py --backbone mobilenetv2_100 --weights ../mobilenetv2_100.safetensors

A line is one setting: photos a second from the stored file to the feature, beside what the bare backend does on batches that
are in memory already, measured before and after. Their ratio is the share of the time that is spent in the backbone; the rest
goes to decoding, resizing and waiting. The project's aim is a ratio of at least 0.7. Where there are fewer stored photos than
asked for, they are taken again."""

import argparse
import itertools
import sys
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.checkpoint import Preprocessing
from pipeline.cores import usable_cores
from pipeline.data.dataset import Photos, evaluation_batches
from pipeline.data.manifest import classes_of, read_manifest
from pipeline.data.transforms import evaluation_pixels
from pipeline.errors import PipelineError
from pipeline.models.backbone import create_backbone
from pipeline.models.backends import Backend
from pipeline.params import PARAMS_FILE, load_params
from pipeline.paths import PROCESSED, user_path
from pipeline.runtime import ResolvedRuntime, machine_name, resolve_runtime
from pipeline.training.features import BATCH_SIZE, FeatureExtractor, backend_for, run_over

BARE_BATCHES = 8


def take(photos: Photos, count: int) -> Photos:
    """`count` photos, the same again where there are fewer."""
    places = [number % len(photos) for number in range(count)]
    ids, paths = tuple(photos.ids[place] for place in places), tuple(photos.paths[place] for place in places)
    return Photos(ids, paths, photos.labels[places])


def bare_rate(backend: Backend, batches: Sequence[Tensor]) -> float:
    """Images a second of the backend alone."""
    backend.run(batches[0])
    started = time.perf_counter()
    for batch in batches:
        backend.run(batch)
    return sum(map(len, batches)) / (time.perf_counter() - started)


def rates(
    backend: Backend, photos: Photos, preprocessing: Preprocessing, runtime: ResolvedRuntime, batches: Sequence[Tensor]
) -> tuple[float, float]:
    """Images a second from file to feature, and of the bare backend around it."""
    before = bare_rate(backend, batches)
    started = time.perf_counter()
    run_over(backend.run, photos, preprocessing, runtime=runtime, description="features")
    seconds = time.perf_counter() - started
    return len(photos) / seconds, (before + bare_rate(backend, batches)) / 2


def arguments() -> argparse.Namespace:
    """Numbers of photos, sizes and workers; every combination is measured."""
    own = load_params(PARAMS_FILE).backbone
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default=own.name)
    parser.add_argument("--weights", default=own.weights, help="as backbone.weights of params.yaml")
    parser.add_argument("--photos", type=int, nargs="+", default=[500, 2000, 8000, 22_998])
    parser.add_argument("--sizes", type=int, nargs="+", help="input sizes in pixels; the backbone's own where it is left out")
    parser.add_argument("--workers", type=int, nargs="+", default=[usable_cores()])
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    given = arguments()
    try:
        measure(given)
    except PipelineError as error:
        sys.exit(str(error))


def measure(given: argparse.Namespace) -> None:
    """A line a combination, the sizes in the outer loop because each needs a backend of its own."""
    manifest = read_manifest(PROCESSED)
    stored = Photos.of_split(manifest, PROCESSED, "train", classes_of(manifest))
    backbone = create_backbone(given.backbone, given.weights, locate=user_path)
    extractor, own = FeatureExtractor(backbone.model).eval(), backbone.preprocessing
    present = load_params().runtime.model_copy(update={"device": "cpu"})
    lines = []
    for size in given.sizes or [own.input_size[-1]]:
        preprocessing = own.model_copy(update={"input_size": (own.input_size[0], size, size)})
        runtime = resolve_runtime(present.model_copy(update={"workers": 0}))
        backend = backend_for(extractor, stored, preprocessing, choice="auto", runtime=runtime)
        some = take(stored, BARE_BATCHES * BATCH_SIZE)
        loaded = evaluation_batches(some, evaluation_pixels(preprocessing), batch_size=BATCH_SIZE, workers=0)
        batches = [pixels for pixels, _ in loaded]
        for count, workers in itertools.product(given.photos, given.workers):
            runtime = resolve_runtime(present.model_copy(update={"workers": workers}))
            rate, bare = rates(backend, take(stored, count), preprocessing, runtime, batches)
            lines.append(
                f"| {count:,} | {size} | {workers} | {rate:.0f} | {bare:.0f} | {rate / bare:.2f} | {1 - rate / bare:.0%} |"
            )
    print(f"{given.backbone}, {backend.name}, {machine_name(torch.device('cpu'), runtime.threads)}")
    print("| photos | pixels | workers | images/s | bare backend, images/s | ratio | time outside the backbone |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
