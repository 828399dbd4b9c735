"""What `python -m pipeline predict` costs beside the bare network: its rate on photo files against that of its backend alone.

    python benchmarks/prediction.py --checkpoint outputs/finetuned --photos data/processed/images

The backend takes batches that are ready in memory; the classifier reads, checks, decodes and preprocesses the files on the same
cores. Both take turns, so that a machine that slows down slows both; the median of the turns' ratios is printed. 1 would be
photos that cost nothing to read.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pipeline.checkpoint import read_info, read_model_state
from pipeline.cores import usable_cores
from pipeline.data.transforms import evaluation_transform
from pipeline.inference import Classifier
from pipeline.inference.classifier import BATCH_SIZE, open_photo
from pipeline.inference.predict import photos_in
from pipeline.models.backbone import rebuild
from pipeline.models.backends import build_backend
from pipeline.preprocess.decode import Refused

BATCHES_IN_MEMORY = 8


def seconds(work: Callable[[], object]) -> float:
    """By the clock."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bare_engine(checkpoint: Path, photos: list[Path], count: int) -> Callable[[], None]:
    """A function that runs the network alone over `count` photos, a few ready batches again and again."""
    info = read_info(checkpoint)
    transform = evaluation_transform(info.preprocessing)
    ready: Tensor = torch.stack(
        [transform(open_photo(path, info.stored_size)) for path in photos[: BATCHES_IN_MEMORY * BATCH_SIZE]]
    )
    backend = build_backend(
        rebuild(info, read_model_state(checkpoint)).eval(),
        ready[:2],
        choice="auto",
        device=torch.device("cpu"),
        threads=usable_cores(),
        float32=True,
    )
    batches = list(itertools.islice(itertools.cycle(ready.split(BATCH_SIZE)), count // BATCH_SIZE))

    def run() -> None:
        for batch in batches:
            backend.run(batch)

    return run


def main() -> None:
    """Print both rates and their ratio."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--checkpoint", type=Path, default=Path("outputs/finetuned"))
    arguments.add_argument("--photos", type=Path, default=Path("data/processed/images"))
    arguments.add_argument("--count", type=int, default=2000, help="photos a turn; fewer files are taken again")
    arguments.add_argument("--turns", type=int, default=3)
    given = arguments.parse_args()
    files = photos_in(given.photos)
    count = given.count // BATCH_SIZE * BATCH_SIZE
    classifier = Classifier.load(given.checkpoint, device="cpu")
    bare = bare_engine(given.checkpoint, files, count)

    def predict() -> None:
        outcomes = classifier.predict_each(itertools.islice(itertools.cycle(files), count))
        assert not any(isinstance(one, Refused) for one in outcomes)

    turns = [(seconds(bare), seconds(predict)) for _ in range(1 + given.turns)][1:]  # the first turn warms up
    for name, times in zip(("bare backend", "predict"), zip(*turns, strict=True), strict=True):
        print(f"{name:11} {count / statistics.median(times):7.1f} photos/s")
    ratio = statistics.median(backend / whole for backend, whole in turns)
    print(f"ratio       {ratio:7.2f} over {count:,} photos, {given.turns} turns, {usable_cores()} cores")


if __name__ == "__main__":
    main()
