"""The commands `predict` and `submission`: photos in, a line each out, and a reason for each that cannot be predicted.

for name, photo in photos_named(["holiday/", "*.png", "https://example.org/cat.jpg", "-"]):
    ...
"""

import csv
import glob
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from itertools import tee
from pathlib import Path
from typing import Literal

from PIL import Image, UnidentifiedImageError

from pipeline.errors import PipelineError
from pipeline.files import printable, write_csv
from pipeline.inference.classifier import Classifier, Photo, Prediction, is_address
from pipeline.preprocess.decode import FORMATS, Refused
from pipeline.progress import progress, say

Format = Literal["table", "csv", "json"]
Kind = Literal["class", "probability"]
Row = tuple[str, Prediction]

EXPLAINED = Path("outputs/explained")
SKIPPED_NAMED = 5  # of the files of a folder that are no photos, so many are named
# Some of Kaggle's labels are wrong: beyond 0.5% more confidence gains less than one of those costs, here 5.3 nats at most.
LOWEST, HIGHEST = 0.005, 0.995


def predict_photos(arguments: list[str], checkpoint: Path, output_format: Format, *, explain: bool) -> int:
    """Predict what the arguments name, write it to standard output, and give the exit status: 1 if any photo failed.

    Raises:
        PipelineError: there is no usable checkpoint, or the network has nothing that Grad-CAM could look at.
    """
    warnings.simplefilter("ignore")  # of decoders, on photos that they read all the same
    classifier, failures = Classifier.load(checkpoint), 0

    def predicted() -> Iterator[Row]:
        """The photos that can be predicted; the others are named on standard error."""
        nonlocal failures
        named, photos = tee(photos_named(arguments))
        outcomes = classifier.predict_each(photo for _, photo in photos)
        for number, ((name, photo), outcome) in enumerate(zip(named, outcomes, strict=True), 1):
            if isinstance(outcome, Refused):
                print(f"{name}: {outcome}", file=sys.stderr, flush=True)
                failures += 1
                continue
            if explain:
                file = EXPLAINED / f"{number:04d}.{Path(name).stem[:100]}.{outcome.label}.png"
                EXPLAINED.mkdir(parents=True, exist_ok=True)
                classifier.explain(photo, outcome.label).save(file)
                print(f"{name}: Grad-CAM is in {file}", file=sys.stderr, flush=True)
            yield name, outcome

    try:
        _write(predicted(), classifier.classes, output_format)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1 if failures else 0


def photos_named(arguments: Iterable[str]) -> Iterator[tuple[str, Photo]]:
    """The name and the photo for each file that the arguments come to, in their order, folders and patterns sorted.

    A folder means the photos in it and below. `-` is the bytes of one photo on standard input. Any other file is taken for a
    photo, and what does not exist comes out as it is, so that opening it gives the reason.
    """
    for argument in arguments:
        path = Path(argument)
        if argument == "-":
            yield "standard input", sys.stdin.buffer.read()
        elif is_address(argument):
            yield argument, argument
        else:
            matching = [] if path.exists() else [Path(found) for found in glob.glob(argument, recursive=True)]
            files = photos_in(path) if path.is_dir() else sorted(matching)
            yield from ((printable(str(file)), file) for file in files or [path])


def photos_in(folder: Path) -> list[Path]:
    """The photos in a folder and below it, known by their content, sorted; hidden files are left out.

    What is skipped is counted on standard error.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    photos = [path for path in files if _is_photo(path)]
    if skipped := sorted(set(files) - set(photos)):
        named = ", ".join(map(str, skipped[:SKIPPED_NAMED])) + (", ..." if len(skipped) > SKIPPED_NAMED else "")
        counted = f"skipped {len(skipped):,} of {len(files):,} files, no photos in a known format"
        print(f"{folder}: {counted}: {named}", file=sys.stderr)
    return photos


def _is_photo(path: Path) -> bool:
    """Whether a file begins as one of the formats that are read; whether it is whole, decoding tells."""
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:  # a header that is broken, or a file that cannot be opened: decoding gives the reason
        return True


def _write(rows: Iterable[Row], classes: tuple[str, ...], output_format: Format) -> None:
    if output_format == "json":
        print(json.dumps([{"photo": name} | vars(one) for name, one in rows], indent=2))
    elif output_format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["photo", "label", "probability", *classes, "is_ood", "ood_score"])
        for name, one in rows:
            probabilities = [f"{one.probabilities[label]:.6g}" for label in (one.label, *classes)]
            writer.writerow([name, one.label, *probabilities, str(one.is_ood).lower(), f"{one.ood_score:.4g}"])
    else:
        width = max(map(len, ("label", *classes)))
        print(f"{'label':{width}}  probability  photo")
        for name, one in rows:
            print(f"{one.label:{width}}  {one.probability:11.2%}  {name}{'  (out of distribution)' if one.is_ood else ''}")


def write_submission(folder: Path, checkpoint: Path, output: Path, *, kind: Kind) -> None:
    """Predict the photos N.jpg of a folder and write `id,label` for each, sorted by N, as Kaggle's two competitions take it.

    Dogs vs. Cats scores classes (1 for a dog, 0 for a cat), Redux the log-loss of the probability of a dog, here clipped to
    0.005 to 0.995. A photo that cannot be decoded gets a row too, because Kaggle takes no file without it: class 0, or 0.5.

    Raises:
        PipelineError: the checkpoint has other classes, or the folder holds no such photos or two of one number.
    """
    classifier = Classifier.load(checkpoint)
    if sorted(map(str.casefold, classifier.classes)) != ["cat", "dog"]:
        classes = ", ".join(classifier.classes)
        raise PipelineError(f"{checkpoint} has the classes {classes}. Give one of cat and dog with --checkpoint.")
    dog = max(classifier.classes, key=str.casefold)
    photos, rows = _numbered(folder), []
    with progress("predicting photos", total=len(photos)) as advance:
        for (number, path), outcome in zip(photos.items(), classifier.predict_each(photos.values()), strict=True):
            if isinstance(outcome, Refused):
                label = 0 if kind == "class" else 0.5
                print(f"{path}: {outcome}; it is given {label:g}", file=sys.stderr, flush=True)
            elif kind == "class":
                label = int(outcome.label == dog)
            else:
                label = min(max(outcome.probabilities[dog], LOWEST), HIGHEST)
            rows.append({"id": number, "label": label})
            advance(1)
    write_csv(output, rows)
    say(f"{output}: {len(rows):,} rows for Kaggle")


def _numbered(folder: Path) -> dict[int, Path]:
    """The photos N.jpg by N, from the smallest on."""
    photos: dict[int, Path] = {}
    for path in sorted(folder.rglob("*.jpg")):
        if not (path.stem.isascii() and path.stem.isdecimal()):
            continue
        number = int(path.stem)
        if number in photos:
            raise PipelineError(f"{photos[number]} and {path} have the same number. Give the folder of one set of test photos.")
        photos[number] = path
    if not photos:
        raise PipelineError(f"{folder} holds no photos named 1.jpg, 2.jpg and so on. Give the folder of Kaggle's test photos.")
    return dict(sorted(photos.items()))
