"""The commands `predict` and `embed`: photos in, a row each out, and a reason for each that cannot be read."""

import csv
import glob
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise, tee
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.download.listing import is_hidden, walk
from pipeline.errors import PipelineError
from pipeline.files import printable, write_atomically
from pipeline.inference.classifier import Classifier, Photo, Prediction, is_address
from pipeline.preprocess.decode import FORMATS, Refused
from pipeline.progress import say

Format = Literal["table", "csv", "json", "kaggle"]
NamedPhoto = tuple[str, Photo]
T = TypeVar("T")

EXPLAINED = Path("outputs/explained")
SKIPPED_NAMED = 5  # of the files of a folder that are no photos, so many are named


def predict_photos(
    arguments: list[str], checkpoint: Path, output_format: Format, *, explain: bool, device: str = "auto"
) -> int:
    """Predict what the arguments name, write it to standard output, and give the exit status: 1 if any photo failed.

    A PipelineError says that there is no usable checkpoint, or nothing that Grad-CAM could look at. For Kaggle also: that the
    classes are not cat and dog, or there are no photos named N.jpg.
    """
    warnings.simplefilter("ignore")  # of decoders, on photos that they read all the same
    classifier, refused = Classifier.load(checkpoint, device=device), list[str]()
    for_kaggle = output_format == "kaggle"
    photos = _numbered(arguments) if for_kaggle else photos_named(arguments)
    clip = _clip_of(classifier, checkpoint) if for_kaggle else 0.0

    def predicted() -> Iterator[tuple[str, Prediction | Refused]]:
        answer: Callable[..., Iterator[Any]] = classifier.explain_each if explain else classifier.predict_each
        for number, (name, outcome) in enumerate(_answers(photos, answer, refused), 1):
            if explain and not isinstance(outcome, Refused):
                outcome, picture = outcome
                file = EXPLAINED / f"{number:04d}.{_begin(Path(name).stem)}.{_begin(outcome.label)}.png"
                EXPLAINED.mkdir(parents=True, exist_ok=True)
                picture.save(file)
                print(f"{name}: Grad-CAM is in {file}", file=sys.stderr, flush=True)
            yield name, outcome

    try:
        _write(predicted(), classifier.classes, output_format, clip)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1 if refused else 0


def _begin(text: str) -> str:
    """At most the first 100 bytes: a file system takes names of 255."""
    return text.encode(errors="replace")[:100].decode(errors="ignore")


def embed_photos(
    arguments: list[str], checkpoint: Path, output_format: Literal["parquet", "npy"], output: Path, *, device: str = "auto"
) -> int:
    """Write the features of what the arguments name, and give the exit status: 1 if any photo failed.

    Parquet has the columns `photo` and `features`. A .npy file holds (n, width) float32 alone, and the names of its rows stand
    beside it, a line each, in the file with .txt added. A PipelineError says that there is no usable checkpoint, no photo that
    can be read, or the file cannot be written.
    """
    warnings.simplefilter("ignore")
    classifier, refused = Classifier.load(checkpoint, device=device), list[str]()
    answers = _answers(photos_named(arguments), classifier.embed_each, refused)
    rows = [(name, outcome) for name, outcome in answers if not isinstance(outcome, Refused)]
    if not rows:
        raise PipelineError("None of that is a photo that can be read, so nothing was written.")
    names, features, buffer = [name for name, _ in rows], np.stack([row for _, row in rows]), io.BytesIO()
    if output_format == "npy":
        np.save(buffer, features)
        write_atomically(output.with_name(f"{output.name}.txt"), "".join(f"{name}\n" for name in names).encode())
    else:
        import pyarrow
        from pyarrow import parquet

        column = pyarrow.FixedSizeListArray.from_arrays(features.ravel(), features.shape[1])
        parquet.write_table(pyarrow.table({"photo": names, "features": column}), buffer)
    write_atomically(output, buffer.getvalue())
    say(f"{output}: {len(features):,} photos, {features.shape[1]:,} features each; {len(refused):,} could not be read")
    return 1 if refused else 0


def _answers(
    photos: Iterable[NamedPhoto], answer: Callable[[Iterable[Photo]], Iterator[T | Refused]], refused: list[str]
) -> Iterator[tuple[str, T | Refused]]:
    """Name and answer; a photo that cannot be read is added to `refused`, with the reason on standard error."""
    named, unnamed = tee(photos)
    for (name, photo), outcome in zip(named, answer(photo for _, photo in unnamed), strict=True):
        if isinstance(outcome, Refused):
            no_photos = isinstance(photo, Path) and os.path.isdir(photo) and os.access(photo, os.R_OK)
            print(f"{name}: {'holds no photos' if no_photos else outcome}", file=sys.stderr, flush=True)
            refused.append(name)
        yield name, outcome


def photos_named(arguments: Iterable[str]) -> Iterator[NamedPhoto]:
    """The name and the photo for each file that the arguments come to, in their order, folders and patterns sorted.

    A folder, also one that a pattern matches, means the photos in it and below. `-` is the bytes of one photo on standard
    input. Any other file is taken for a photo, and what does not exist comes out as it is, so that opening it gives the reason.
    """
    for argument in arguments:
        path = Path(argument)
        if argument == "-":
            yield "standard input", sys.stdin.buffer.read()
        elif is_address(argument):
            yield argument, argument
        else:
            matching = [path] if os.path.exists(path) else sorted(map(Path, glob.glob(argument, recursive=True)))
            files: dict[Path, None] = {}  # each once: a pattern may match a folder and what is in it
            for found in matching:
                files |= dict.fromkeys(photos_in(found) if os.path.isdir(found) else [found])
            yield from ((printable(str(file)), file) for file in files or matching or [path])


def photos_in(folder: Path) -> list[Path]:
    """The photos in a folder and below, known by their content, sorted, none hidden; standard error tells what is skipped.

    Where a folder in it cannot be read, no photo is taken, because nobody would notice those that are missing; that folder
    comes out instead, so that opening it gives the reason.
    """
    try:
        files = _visible_files(folder)
    except OSError as error:
        print(f"{folder}: none of it is taken, because {error.filename} cannot be read", file=sys.stderr)
        return [Path(error.filename)]
    photos = [path for path in files if _is_photo(path)]
    if skipped := sorted(set(files) - set(photos)):
        named = ", ".join(map(str, skipped[:SKIPPED_NAMED])) + (", ..." if len(skipped) > SKIPPED_NAMED else "")
        counted = f"skipped {len(skipped):,} of {len(files):,} files, no photos in a known format"
        print(f"{folder}: {counted}: {named}", file=sys.stderr)
    return photos


def _visible_files(folder: Path) -> list[Path]:
    """The files in a folder and below, sorted, none hidden; `walk` follows links. An OSError: a folder cannot be read."""
    if not os.path.isdir(folder):
        return []
    files = (path for path, is_folder in walk(folder) if not is_folder)
    visible = (path for path in files if not any(map(is_hidden, path.relative_to(folder).parts)))
    return sorted(path for path in visible if os.path.isfile(path))


def _is_photo(path: Path) -> bool:
    """Whether a file begins as one of the formats that are read; whether it is whole, decoding tells."""
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:  # a header that is broken, or a file that cannot be opened: decoding gives the reason
        return True


def _write(
    outcomes: Iterable[tuple[str, Prediction | Refused]], classes: tuple[str, ...], output_format: Format, clip: float
) -> None:
    """The predictions, by the photos' names.

    For Kaggle, the probability of a dog for each photo N.jpg, as Dogs vs. Cats Redux scores it; Dogs vs. Cats wants it rounded.
    A photo that cannot be read gets 0.5 there, because Kaggle takes no file without its row.
    """
    rows = ((name, one) for name, one in outcomes if not isinstance(one, Refused))
    if output_format == "kaggle":
        dog = max(classes, key=str.casefold)
        print("id,label")
        for name, outcome in outcomes:
            probability = 0.5 if isinstance(outcome, Refused) else outcome.probabilities[dog]
            print(f"{int(Path(name).stem)},{np.clip(probability, clip, 1 - clip):.6g}")
    elif output_format == "json":
        print(json.dumps([{"photo": name} | one._asdict() for name, one in rows], indent=2))
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


def _clip_of(classifier: Classifier, checkpoint: Path) -> float:
    """The clip that was chosen on photos that the checkpoint's head had not seen."""
    if sorted(map(str.casefold, classifier.classes)) != ["cat", "dog"]:
        classes = ", ".join(classifier.classes)
        raise PipelineError(f"{checkpoint} has the classes {classes}. Give one of cat and dog with --checkpoint.")
    if "clip" not in classifier.info.metrics:
        raise PipelineError(f"{checkpoint} was saved without the clip of probabilities. Make it again with: dvc repro")
    clip = classifier.info.metrics["clip"]
    print(f"probabilities are clipped to {clip:.3g}, the best on photos that the head had not seen", file=sys.stderr)
    return clip


def _numbered(folders: Iterable[str]) -> list[NamedPhoto]:
    """The photos N.jpg in the folders and below, from the smallest N on."""
    files = [path for folder in folders for path in _visible_files(Path(folder)) if path.suffix == ".jpg"]
    photos = sorted((int(path.stem), path) for path in files if path.stem.isascii() and path.stem.isdecimal())
    for (number, path), (next_number, other) in pairwise(photos):
        if number == next_number:
            raise PipelineError(f"{path} and {other} have the same number. Give the folder of one set of test photos.")
    if not photos:
        named = ", ".join(folders)
        raise PipelineError(f"{named} holds no photos named 1.jpg, 2.jpg and so on. Give the folder of Kaggle's test photos.")
    return [(str(path), path) for _, path in photos]
