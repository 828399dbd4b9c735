"""Scaling of the frozen stage's pass over photos with backend, number of photos, input size and workers, on CPU or GPU.

    uv run python benchmarks/scaling.py                                        # after `dvc repro preprocess`
    uv run python benchmarks/scaling.py --backends torch openvino --photos 2000 --sizes 160 224 --workers 0 1 2
    uv run python benchmarks/scaling.py --device cuda --backbone resnet50 --weights none --photos 16384

A line is one setting: photos a second from the stored file to the feature, and those of the bare backend on batches that are in
memory, measured before and after. Their ratio is the fraction of the time spent in the backbone; 0.7 is the aim on a processor.
The error is the backend's against eager float32.
"""

import argparse
import itertools
import time
from collections.abc import Callable

import torch
from common import PROJECT, resolved, run_command, stored_photos
from torch import Tensor

from pipeline.checkpoint import Preprocessing
from pipeline.data.dataset import Photos, in_batches, load_batches
from pipeline.models.backbone import create_backbone
from pipeline.models.outputs import FeatureExtractor
from pipeline.params import load_params
from pipeline.paths import user_path
from pipeline.reproduce import markdown
from pipeline.runtime import ResolvedRuntime, machine_name
from pipeline.training.features import backend_for, batch_size_on, evaluation, run_inference

BATCHES_IN_MEMORY = 8
HEAD = ("backend", "error", "photos", "pixels", "workers", "photos/s", "bare backend, photos/s", "ratio")


def seconds_of(work: Callable[[], object]) -> float:
    """Wall-clock seconds, until a GPU is done too."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def first_batches(photos: Photos, preprocessing: Preprocessing, runtime: ResolvedRuntime) -> list[Tensor]:
    """The first batches as the frozen stage's pass has them, on the device."""
    batches = in_batches(range(len(photos)), batch_size_on(runtime.device))
    loaded = load_batches(photos, evaluation(preprocessing), batches, workers=runtime.workers)
    return [pixels.to(runtime.device) for pixels, _ in itertools.islice(loaded, BATCHES_IN_MEMORY)]


def measure(given: argparse.Namespace) -> None:
    """A line a combination, backends and sizes in the outer loops because each needs a backend of its own."""
    own = load_params(PROJECT / "params.yaml").backbone.parts[0]
    backbone = create_backbone(given.backbone or own.name, given.weights or own.weights, locate=user_path)
    stored, runtime, rows = stored_photos("train"), resolved(given.device), []
    for choice, size in itertools.product(given.backends, given.sizes or [backbone.preprocessing.input_size[-1]]):
        preprocessing = backbone.preprocessing.model_copy(update={"input_size": (3, size, size)})
        extractor = FeatureExtractor(backbone.model).eval()
        backend = backend_for(extractor, stored, preprocessing, choice=choice, runtime=runtime, float32=False)
        batches = first_batches(stored, preprocessing, runtime)

        def bare_seconds() -> float:
            return seconds_of(lambda: [backend.run(batch) for batch in batches])  # noqa: B023

        bare_seconds()
        for count, workers in itertools.product(given.photos, given.workers):
            photos, loading = stored_photos("train", count), resolved(given.device, workers=workers)

            def whole_pass() -> object:
                return run_inference(backend.run, photos, evaluation(preprocessing), runtime=loading, description="photos")  # noqa: B023

            before = bare_seconds()
            rate = count / seconds_of(whole_pass)
            bare_rate = 2 * sum(map(len, batches)) / (before + bare_seconds())
            setting = f"{backend.name}", f"{backend.relative_rms_error:.1e}", f"{count:,}", f"{size}", f"{workers}"
            rows.append((*setting, f"{rate:.0f}", f"{bare_rate:.0f}", f"{rate / bare_rate:.2f}"))
    print(f"{backbone.info.name}, {machine_name(runtime.device, runtime.threads)}")
    print(markdown(HEAD, rows))


if __name__ == "__main__":
    run_command(
        __doc__,
        measure,
        backbone={"help": "timm's name; that of params.yaml where it is left out"},
        weights={"help": "as backbone.weights in params.yaml, which is taken where it is left out"},
        backends={"nargs": "+", "default": ["auto"], "help": "auto, torch, openvino"},
        photos={"type": int, "nargs": "+", "default": [500, 2000, 8000, 22_998], "help": "the same again if too few"},
        sizes={"type": int, "nargs": "+", "help": "input sizes in pixels; the backbone's own where it is left out"},
        workers={"type": int, "nargs": "+", "default": ["auto"], "help": "one a core where it is left out"},
        device={"default": "cpu"},
    )
