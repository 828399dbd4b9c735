"""What `python -m pipeline predict` does: photos in, a line each out, and a reason for each that is none."""

import csv
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from itertools import tee
from pathlib import Path
from typing import Literal, TextIO

from pipeline.inference.classifier import Classifier, Prediction
from pipeline.inference.photo import Photo
from pipeline.inference.sources import photos_named
from pipeline.preprocess.decode import Refused

Format = Literal["table", "csv", "json"]
Row = tuple[str, Photo, Prediction]

EXPLAINED = Path("outputs/explained")


def predict_photos(arguments: list[str], checkpoint: Path, output_format: Format, *, explain: bool) -> int:
    """Predict what the arguments name, write it to standard output, and give the exit status: 1 if any photo failed.

    Raises:
        PipelineError: there is no usable checkpoint, or the network has nothing that Grad-CAM could look at.
    """
    warnings.simplefilter("ignore")  # of decoders, on photos that they read all the same
    classifier = Classifier.load(checkpoint)
    failures: list[str] = []
    rows = _predicted(classifier, arguments, failures)
    if explain:
        rows = _explained(classifier, rows)
    try:
        _write(rows, classifier.classes, output_format, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1 if failures else 0


def _predicted(classifier: Classifier, arguments: list[str], failures: list[str]) -> Iterator[Row]:
    """The photos that can be predicted; the others are told on standard error and added to `failures`."""
    named, photos = tee(photos_named(arguments))
    for (name, photo), outcome in zip(named, classifier.predict_each(photo for _, photo in photos), strict=True):
        if isinstance(outcome, Refused):
            print(f"{name}: {outcome}", file=sys.stderr, flush=True)
            failures.append(name)
        else:
            yield name, photo, outcome


def _explained(classifier: Classifier, rows: Iterable[Row]) -> Iterator[Row]:
    """Draws, for each photo that passes, what spoke for its label."""
    EXPLAINED.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for name, photo, prediction in rows:
        stem = f"{Path(name).stem}.{prediction.label}"
        number = next(number for number in range(1, len(taken) + 2) if f"{stem}.{number}" not in taken)
        taken.add(f"{stem}.{number}")
        file = EXPLAINED / (f"{stem}.png" if number == 1 else f"{stem}.{number}.png")
        classifier.explain(photo, prediction.label).save(file)
        print(f"{name}: where the network looked is in {file}", file=sys.stderr, flush=True)
        yield name, photo, prediction


def _write(rows: Iterable[Row], classes: tuple[str, ...], output_format: Format, out: TextIO) -> None:
    if output_format == "json":
        json.dump([{"photo": name} | vars(prediction) for name, _, prediction in rows], out, indent=2)
        out.write("\n")
    elif output_format == "csv":
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["photo", "label", "probability", *classes, "is_ood", "distance"])
        for name, _, one in rows:
            probabilities = [f"{one.probabilities[label]:.6g}" for label in (one.label, *classes)]
            writer.writerow([name, one.label, *probabilities, str(one.is_ood).lower(), f"{one.distance:.4g}"])
    else:
        width = max(map(len, ("label", *classes)))
        out.write(f"{'label':{width}}  probability  photo\n")
        for name, _, one in rows:
            warning = "  (unlike anything seen in training)" if one.is_ood else ""
            out.write(f"{one.label:{width}}  {one.probability:11.2%}  {name}{warning}\n")
