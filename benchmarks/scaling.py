"""Scaling of the frozen stage's pass over photos with backend, number of photos, input size and workers, on CPU or GPU.

    uv run python benchmarks/scaling.py                                        # after `dvc repro preprocess`
    uv run python benchmarks/scaling.py --backends torch onnxruntime openvino --photos 2000 --sizes 160 224 --workers 0 1 2
    uv run python benchmarks/scaling.py --device cuda --backbone resnet50 --weights none --photos 16384

A line is one setting: photos a second from the stored file to the feature, and those of the bare backend on batches that are in
memory, measured before and after. Their ratio is the fraction of the time spent in the backbone; 0.7 is the aim on a processor.
The error is the backend's against eager float32.
"""

import argparse
import itertools
from typing import Any

from common import (
    backbone_of,
    backbone_options,
    feature_backend,
    first_batches,
    pass_over,
    resolved,
    run_or_exit,
    seconds_of,
    stored_photos,
    table,
)


def measure(given: argparse.Namespace) -> None:
    """A line a combination, backends and sizes in the outer loops because each needs a backend of its own."""
    from pipeline.runtime import machine_name

    backbone, stored, rows = backbone_of(given), stored_photos("train"), []
    for choice, size in itertools.product(given.backends, given.sizes or [backbone.preprocessing.input_size[-1]]):
        preprocessing = backbone.preprocessing.model_copy(update={"input_size": (3, size, size)})
        backend = feature_backend(backbone.model, stored, preprocessing, resolved(given.device), choice=choice)
        batches = first_batches(stored, preprocessing, resolved(given.device))

        def bare(backend: Any = backend, batches: list[Any] = batches) -> None:
            for batch in batches:
                backend.run(batch)

        bare()
        for count, workers in itertools.product(given.photos, given.workers):
            photos, runtime = stored_photos("train", count), resolved(given.device, workers=workers)
            before = seconds_of(bare)
            rate = count / seconds_of(lambda: pass_over(backend, photos, preprocessing, runtime))  # noqa: B023
            bare_rate = 2 * sum(map(len, batches)) / (before + seconds_of(bare))
            setting = f"{backend.name}", f"{backend.relative_rms_error:.1e}", f"{count:,}", f"{size}", f"{workers}"
            rows.append((*setting, f"{rate:.0f}", f"{bare_rate:.0f}", f"{rate / bare_rate:.2f}"))
    print(f"{backbone.info.name}, {machine_name(runtime.device, runtime.threads)}")
    print(table(("backend", "error", "photos", "pixels", "workers", "photos/s", "bare backend, photos/s", "ratio"), rows))


def main() -> None:
    """Parse the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    backbone_options(parser)
    parser.add_argument("--backends", nargs="+", default=["auto"], help="auto, torch, onnxruntime, openvino")
    parser.add_argument("--photos", type=int, nargs="+", default=[500, 2000, 8000, 22_998], help="the same again if too few")
    parser.add_argument("--sizes", type=int, nargs="+", help="input sizes in pixels; the backbone's own where it is left out")
    parser.add_argument("--workers", type=int, nargs="+", default=["auto"], help="one a core where it is left out")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    run_or_exit(lambda: measure(given))


if __name__ == "__main__":
    main()
