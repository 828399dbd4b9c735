"""Cost of prediction and of the evaluate stage against running the bare network, after a `dvc repro` in this folder.

    uv run python benchmarks/prediction.py
    uv run python benchmarks/prediction.py --photos data/processed/images --count 5000 --turns 5

All take turns over as many photos: the network's backend on batches in memory; the classifier on photo files; and the whole
stage by its own clock, with statistics, figures and report, which runs two networks where fine-tuning was kept.
"""

import argparse
import itertools
import shutil
import tempfile
from pathlib import Path

from common import PROJECT, first_batches, in_turns, rates_table, resolved, run_command, run_stage, stored_photos

from pipeline.checkpoint import read_info, read_model_state
from pipeline.files import read_json
from pipeline.inference import Classifier
from pipeline.models.backbone import rebuild
from pipeline.training.features import backend_for

CHECKPOINT = PROJECT / "outputs/finetuned"


def measure(given: argparse.Namespace) -> None:
    """Print the table."""
    files, test, runtime = sorted(given.photos.rglob("*.jpg")), stored_photos("test"), resolved("cpu")
    info = read_info(CHECKPOINT)
    network = rebuild(info, read_model_state(CHECKPOINT)).eval()
    backend = backend_for(network, test, info.preprocessing, choice="auto", runtime=runtime, float32=True)
    batches = first_batches(test, info.preprocessing, runtime)
    count = given.count // len(batches[0]) * len(batches[0])
    classifier = Classifier.load(CHECKPOINT, device="cpu")

    def bare() -> None:
        for batch in itertools.islice(itertools.cycle(batches), count // len(batches[0])):
            backend.run(batch)

    def predict() -> None:
        list(classifier.predict_each(itertools.islice(itertools.cycle(files), count)))

    taken = in_turns({"bare network": bare, "predict": predict}, given.turns) | {"evaluate": []}
    with tempfile.TemporaryDirectory() as temporary:  # a copy, so that no result is touched
        copy = Path(temporary)
        shutil.copytree(PROJECT / "outputs", copy / "outputs", ignore=shutil.ignore_patterns(".*"))
        shutil.copy(PROJECT / "params.yaml", copy)
        for name in ("data", "pipeline"):
            (copy / name).symlink_to(PROJECT / name)
        for _ in range(given.turns):
            run_stage("evaluate", copy, copy / "log.txt")
            seconds = read_json(copy / "outputs/seconds/evaluate.json")["seconds"]
            taken["evaluate"].append(seconds * count / len(test))  # of as many photos as the others
    print(f"{count:,} photos, {len(test):,} of them in the test split, {given.turns} turns")
    print(rates_table(("", "photos/s", "ratio"), count, taken))


if __name__ == "__main__":
    run_command(
        __doc__,
        measure,
        photos={"type": Path, "default": PROJECT / "data/processed/images", "help": "a folder of files to predict"},
        count={"type": int, "default": 2000, "help": "photos a turn; fewer files are taken again"},
        turns={"type": int, "default": 3},
    )
