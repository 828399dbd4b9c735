"""What Kaggle's two competitions on cats and dogs take: `python -m pipeline submission --photos test1`.

Dogs vs. Cats scores classes, Dogs vs. Cats Redux the log-loss of the probability of a dog; both want `id,label`, a row a photo.
"""

import sys
from pathlib import Path
from typing import Literal

from pipeline.errors import PipelineError
from pipeline.files import write_csv
from pipeline.inference.classifier import Classifier, Prediction
from pipeline.inference.sources import photos_in
from pipeline.preprocess.decode import Refused
from pipeline.progress import progress, say

Kind = Literal["class", "probability"]

# Some of Kaggle's labels are wrong: beyond 0.5% more confidence gains less than one of those costs, here 5.3 nats at most.
LOWEST, HIGHEST = 0.005, 0.995
UNKNOWN: dict[Kind, float] = {"class": 0, "probability": 0.5}


def write_submission(folder: Path, checkpoint: Path, output: Path, *, kind: Kind) -> None:
    """Predict the photos N.jpg of a folder and write a row for each, sorted by N.

    A photo that cannot be decoded gets a row too, because Kaggle takes no file without it: 0.5, or class 0; it is told on
    standard error.

    Args:
        folder: holds N.jpg, perhaps below it.
        checkpoint: of cats and dogs.
        output: the file to write.
        kind: "class", 1 for a dog and 0 for a cat, or "probability" of a dog, clipped to 0.005 to 0.995.

    Raises:
        PipelineError: the checkpoint knows other classes, or the folder holds no such photos or two of one number.
    """
    classifier = Classifier.load(checkpoint)
    if set(classifier.classes) != {"cat", "dog"}:
        raise PipelineError(
            f"{checkpoint} tells {', '.join(classifier.classes)} apart, and Kaggle's competitions want cat and dog. Give "
            "another one with --checkpoint."
        )
    photos = _numbered(folder)
    labels: dict[int, float] = {}
    with progress("predicting photos", total=len(photos)) as advance:
        for (number, path), outcome in zip(photos.items(), classifier.predict_each(photos.values()), strict=True):
            if isinstance(outcome, Refused):
                print(f"{path}: {outcome}; it is given {UNKNOWN[kind]:g}", file=sys.stderr, flush=True)
            labels[number] = UNKNOWN[kind] if isinstance(outcome, Refused) else _label(outcome, kind)
            advance(1)
    write_csv(output, ({"id": number, "label": label} for number, label in labels.items()))
    say(f"{output}: {len(labels):,} rows for Kaggle")


def _label(prediction: Prediction, kind: Kind) -> float:
    if kind == "class":
        return int(prediction.label == "dog")
    return min(max(prediction.probabilities["dog"], LOWEST), HIGHEST)


def _numbered(folder: Path) -> dict[int, Path]:
    """The photos N.jpg by N, from the smallest on."""
    photos: dict[int, Path] = {}
    for path in photos_in(folder):
        if not (path.stem.isascii() and path.stem.isdecimal()):
            continue
        number = int(path.stem)
        if number in photos:
            raise PipelineError(f"{photos[number]} and {path} have the same number. Give the folder of one set of test photos.")
        photos[number] = path
    if not photos:
        raise PipelineError(f"{folder} holds no photos named 1.jpg, 2.jpg and so on. Give the folder of Kaggle's test photos.")
    return dict(sorted(photos.items()))
