"""Cost of prediction and of the evaluate stage against running the bare network, after a `dvc repro` in this folder.

    uv run python benchmarks/prediction.py
    uv run python benchmarks/prediction.py --photos data/processed/images --count 5000 --turns 5

All take turns over as many photos: the network's backend on batches in memory; the classifier on photo files; and the whole
stage by its own clock, with statistics, figures and report, which runs two networks where fine-tuning was kept.
"""

import argparse
import itertools
import shutil
import statistics
import tempfile
from pathlib import Path

from common import (
    PROJECT,
    checkpoint_backend,
    first_batches,
    in_turns,
    median_ratio,
    resolved,
    run_or_exit,
    run_stage,
    stored_photos,
    table,
)

CHECKPOINT = PROJECT / "outputs/finetuned"


def measure(given: argparse.Namespace) -> None:
    """Print the table."""
    from pipeline.files import read_json
    from pipeline.inference import Classifier

    files, test, runtime = sorted(given.photos.rglob("*.jpg")), stored_photos("test"), resolved("cpu")
    backend, preprocessing = checkpoint_backend(CHECKPOINT, test, runtime)
    batches = first_batches(test, preprocessing, runtime)
    each = len(batches[0])
    count = given.count // each * each
    classifier = Classifier.load(CHECKPOINT, device="cpu")

    def bare() -> None:
        for batch in itertools.islice(itertools.cycle(batches), count // each):
            backend.run(batch)

    def predict() -> None:
        list(classifier.predict_each(itertools.islice(itertools.cycle(files), count)))

    taken = in_turns({"bare network": bare, "predict": predict}, given.turns)
    with tempfile.TemporaryDirectory() as temporary:  # a copy, so that no result is touched
        copy = Path(temporary)
        shutil.copytree(PROJECT / "outputs", copy / "outputs", ignore=shutil.ignore_patterns(".*"))
        shutil.copy(PROJECT / "params.yaml", copy)
        for name in ("data", "pipeline"):
            (copy / name).symlink_to(PROJECT / name)
        taken["evaluate"] = []
        for _ in range(given.turns):
            run_stage("evaluate", copy, copy / "log.txt")
            seconds = read_json(copy / "outputs/seconds/evaluate.json")["seconds"]
            taken["evaluate"].append(seconds * count / len(test))  # of as many photos as the others
    rates = {name: f"{count / statistics.median(values):.0f}" for name, values in taken.items()}
    print(f"{count:,} photos, {len(test):,} of them in the test split, {given.turns} turns")
    rows = [(name, rates[name], f"{median_ratio(taken['bare network'], values):.2f}") for name, values in taken.items()]
    print(table(("", "photos/s", "ratio"), rows))


def main() -> None:
    """Parse the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=PROJECT / "data/processed/images", help="a folder of files to predict")
    parser.add_argument("--count", type=int, default=2000, help="photos a turn; fewer files are taken again")
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    run_or_exit(lambda: measure(given))


if __name__ == "__main__":
    main()
