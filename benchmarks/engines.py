"""What each engine makes of a frozen backbone, on batches that are ready in memory: the reason for the rule that chooses one.

    uv run python benchmarks/engines.py
    uv run python benchmarks/engines.py --backbone mobilenetv2_100 --weights ../mobilenetv2_100.imagenet.safetensors

A line is an engine: its difference to eager float32, which `pipeline/models/engine.py` bounds, and its images a second. All
take turns, so that a machine that slows down slows all of them; the ratio is the median over the turns of an engine's rate
against that of eager torch in the same turn. The batches are random, of the backbone's own input size.
"""

import argparse
import statistics
import sys
import time

import torch
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.machine import machine_name
from pipeline.models.backbone import create_backbone
from pipeline.models.engine import Engine, build_engine
from pipeline.params import load_params
from pipeline.paths import of_person
from pipeline.runtime import resolve_runtime
from pipeline.training.features import BATCH_SIZE, FeatureExtractor

NAMES = ("torch", "onnxruntime", "openvino")
BATCHES = 4  # a turn


def seconds(engine: Engine, batch: Tensor) -> float:
    """By the clock, of `BATCHES` batches."""
    started = time.perf_counter()
    for _ in range(BATCHES):
        engine.run(batch)
    return time.perf_counter() - started


def main() -> None:
    """Print the table, and why an engine is missing in it."""
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
    backbone = create_backbone(name, weights, locate=of_person)
    runtime = resolve_runtime(load_params().runtime.model_copy(update={"device": "cpu", "workers": 0}))
    batch = torch.randn(BATCH_SIZE, *backbone.preprocessing.input_size, generator=torch.Generator().manual_seed(0))
    extractor = FeatureExtractor(backbone.model).eval()
    engines: dict[str, Engine] = {}
    for choice in NAMES:
        try:
            engines[choice] = build_engine(extractor, batch, choice=choice, device=runtime.device, threads=runtime.threads)
        except PipelineError as error:
            print(error)
    taken = [{choice: seconds(engine, batch) for choice, engine in engines.items()} for _ in range(1 + turns)][1:]
    print(f"{name}, batch {BATCH_SIZE}, {machine_name(runtime.device, runtime.threads)}, {turns} turns")
    print("| engine | difference to eager float32 | images/s | ratio |\n| --- | --- | --- | --- |")
    for choice, engine in engines.items():
        rate = BATCHES * BATCH_SIZE / statistics.median(turn[choice] for turn in taken)
        ratio = statistics.median(turn[NAMES[0]] / turn[choice] for turn in taken)
        print(f"| {choice} | {engine.deviation:.1e} | {rate:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
