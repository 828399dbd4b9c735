"""What each backend makes of a frozen backbone, on batches that are ready in memory: the reason for the rule that chooses one.

    uv run python benchmarks/backends.py
    uv run python benchmarks/backends.py --backbone mobilenetv2_100 --weights ../mobilenetv2_100.imagenet.safetensors

A line is a backend: its difference to eager float32, which `pipeline/models/backends.py` bounds, and its images a second. All
take turns, so that a machine that slows down slows all of them; the ratio is the median over the turns of a backend's rate
against that of eager torch in the same turn. The batches are random, of the backbone's own input size.
"""

import argparse
import statistics
import sys
import time

import torch
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.models.backbone import create_backbone
from pipeline.models.backends import Backend, build_backend
from pipeline.params import load_params
from pipeline.paths import user_path
from pipeline.runtime import machine_name, resolve_runtime
from pipeline.training.features import BATCH_SIZE, FeatureExtractor

NAMES = ("torch", "onnxruntime", "openvino")
BATCHES = 4  # a turn


def seconds(backend: Backend, batch: Tensor) -> float:
    """By the clock, of `BATCHES` batches."""
    started = time.perf_counter()
    for _ in range(BATCHES):
        backend.run(batch)
    return time.perf_counter() - started


def main() -> None:
    """Print the table, and why a backend is missing in it."""
    own = load_params().backbone
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default=own.name)
    parser.add_argument("--weights", default=own.weights, help="as backbone.weights of params.yaml")
    parser.add_argument("--turns", type=int, default=7)
    given = parser.parse_args()
    try:
        measure(given.backbone, given.weights, given.turns)
    except PipelineError as error:
        sys.exit(str(error))


def measure(name: str, weights: str, turns: int) -> None:
    """The table of one backbone."""
    backbone = create_backbone(name, weights, locate=user_path)
    runtime = resolve_runtime(load_params().runtime.model_copy(update={"device": "cpu", "workers": 0}))
    batch = torch.randn(BATCH_SIZE, *backbone.preprocessing.input_size, generator=torch.Generator().manual_seed(0))
    extractor = FeatureExtractor(backbone.model).eval()
    backends: dict[str, Backend] = {}
    for choice in NAMES:
        try:
            backends[choice] = build_backend(extractor, batch, choice=choice, device=runtime.device, threads=runtime.threads)
        except PipelineError as error:
            print(error)
    taken = [{choice: seconds(backend, batch) for choice, backend in backends.items()} for _ in range(1 + turns)][1:]
    print(f"{name}, batch {BATCH_SIZE}, {machine_name(runtime.device, runtime.threads)}, {turns} turns")
    print("| backend | difference to eager float32 | images/s | ratio |\n| --- | --- | --- | --- |")
    for choice, backend in backends.items():
        rate = BATCHES * BATCH_SIZE / statistics.median(turn[choice] for turn in taken)
        ratio = statistics.median(turn[NAMES[0]] / turn[choice] for turn in taken)
        print(f"| {choice} | {backend.deviation:.1e} | {rate:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
