"""Splits that photos come with: recognised when they are unpacked, kept beside them, used instead of a drawn split.

    splits.csv, columns path and split      data/raw/splits.csv lists PetImages/Cat/0.jpg and so on

A source has them as folders (train/cat/..., val/cat/..., test/cat/...), or as a splits.csv of its own beside its class folders,
with the photos' paths from there.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import PipelineError

SPLITS_FILE = "splits.csv"
MEANT_BY = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def split_named(name: str) -> str:
    """The split that people call so ("Validation" is "val"), or "" where they call none so."""
    return MEANT_BY.get(name.strip().casefold(), "")


def parse_predefined(text: str, source: object) -> dict[str, str]:
    """Path -> "train", "val" or "test", from the text of a splits.csv.

    Args:
        text: what the file holds; further columns are left alone.
        source: what to call it where something is wrong.

    Raises:
        PipelineError: a column is missing, a split has a name that is not known, or a path stands twice.
    """
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    if not {"path", "split"} <= set(rows.fieldnames or ()):
        raise PipelineError(f"{source} needs the columns path and split, and has {', '.join(rows.fieldnames or ()) or 'none'}.")
    predefined: dict[str, str] = {}
    for row in rows:
        path, name = row["path"] or "", row["split"] or ""
        if not (split := split_named(name)):
            raise PipelineError(f"{source} says that {path!r} is in the split {name!r}: use train, val or test.")
        if path in predefined:
            raise PipelineError(f"{source} lists {path!r} twice.")
        predefined[path] = split
    return predefined


def read_predefined(raw: Path) -> dict[str, str]:
    """Path below `raw` -> split; empty where the photos come without splits.

    Raises:
        PipelineError: `raw`/splits.csv is not such a file.
    """
    path = raw / SPLITS_FILE
    return parse_predefined(path.read_text(encoding="utf-8"), path) if path.exists() else {}


def write_predefined(raw: Path, predefined: Mapping[str, str]) -> None:
    """Write `raw`/splits.csv, in the order of paths."""
    with (raw / SPLITS_FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "split"))
        writer.writerows(sorted(predefined.items()))
