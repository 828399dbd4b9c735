"""Unpacking to one layout, `PetImages/<Class>/<name>`: from a zip, a tar, a folder or Parquet files, whole or not at all.

Files are written as they were published, empty and damaged ones included: the audit in preprocessing decides which are photos.
In Parquet files, as the Hugging Face hub stores photos, a row is a photo: a column has encoded pictures, one classes. The photo
of row 12 becomes 12.jpg, and its class a row of labels.csv; where the files are named by several splits
(train-00000-of-00002, test-00000-of-00001), train/12.jpg. Rows are counted over all files of a split, in order.
"""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.download.extract import extract, max_bytes, reading, refuse_collisions
from pipeline.download.layouts import SPLITS_FILE, Placement, by_reason, check_class_name, first_few, first_split, place
from pipeline.download.listing import is_hidden, is_photo_name, list_files
from pipeline.errors import PipelineError
from pipeline.files import cannot_write, check_room, printable, recover_folder, replace_folder, write_csv
from pipeline.progress import progress, say

PHOTOS_FOLDER = "PetImages"
INNER_ARCHIVE = "train.zip"  # what Kaggle packs the labelled photos in, inside the zip of all files


def unpack_photos(source: Path, destination: Path) -> Placement:
    """Write the photos of a source to `destination/PetImages/<Class>/<name>`, and predefined splits to `splits.csv`.

    What was understood is printed before anything is written: the layout, the classes, the splits and what is left out.

    Args:
        source: a zip, a tar, a folder, or Parquet files. Where an archive holds no photos but one train.zip, that is unpacked.
        destination: a folder to make. One that holds nothing but an earlier result is replaced once all is written.

    A PipelineError says that the source is missing, damaged, no archive, unsafe, in no known layout or of fewer than two
    classes; the disk is too small; or a file cannot be written. The destination is then as it was before.
    """
    destination = destination.resolve()
    _check_apart(source, destination)
    work = destination.with_name(f".{destination.name}.unpacking")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        recover_folder(destination)
        shutil.rmtree(work, ignore_errors=True)  # left by a kill
        placement = _place(source, _extracted(source, work / "extracted"), work / "placed")
        replace_folder(work / "placed", destination)
        return placement
    except OSError as error:  # of the disk: `reading` reports those of the source
        raise cannot_write(destination, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_apart(source: Path, destination: Path) -> None:
    """Refuse to read what is being written, and to replace what is not known to be an earlier result."""
    if not source.exists():
        raise PipelineError(f"{source} does not exist.")
    reads = source.resolve()
    if reads == destination or reads in destination.parents or destination in reads.parents:
        raise PipelineError(f"{source} and {destination} lie one in the other: give a destination apart from the source.")
    refuse_others(destination)


def refuse_others(destination: Path) -> None:
    """Raise a PipelineError where what is there holds anything but an earlier result, and would be lost."""
    if destination.exists() and not destination.is_dir():
        raise PipelineError(f"{destination} is a file, where a folder is to be made: move it away.")
    names = {path.name for path in destination.iterdir() if not is_hidden(path.name)} if destination.exists() else set()
    if others := names - {PHOTOS_FOLDER, SPLITS_FILE}:
        raise PipelineError(f"{destination} would be replaced, and holds other things ({min(others)!r}): move them away.")


def _extracted(source: Path, folder: Path) -> Path:
    """A folder with what the source holds: the source itself, or `folder` with what was extracted from it."""
    with reading(source):
        tables = parquet_files(source)
    if tables:
        extract_parquet(tables, folder)
        return folder
    if source.is_dir():
        return source
    whole = folder / source.name
    extract(source, whole)
    files = [path for path in whole.rglob("*") if path.is_file()]
    inner = [path for path in files if path.name == INNER_ARCHIVE]
    if len(inner) != 1 or any(is_photo_name(path.name) for path in files):
        return whole
    extract(inner[0], folder / "inner")
    return folder / "inner"


def _place(source: Path, folder: Path, fresh: Path) -> Placement:
    """Write the photos of a folder to `fresh`: copied where the folder is the source, and moved where it was extracted."""
    placement = place(source, folder, *list_files(source, folder))
    rarest_first = sorted(placement.classes.items(), key=lambda item: item[1])
    counts = first_few([f"{name} {count:,}" for name, count in rarest_first])
    say(f"{len(placement.photos):,} files of {len(rarest_first)} classes (layout: {placement.layout}): {counts}")
    if placement.splits:
        say("Predefined splits: " + ", ".join(f"{split} {count:,}" for split, count in placement.splits.items()))
    for line in by_reason(placement.left_out):
        say(line)
    targets = {photo.path: f"{PHOTOS_FOLDER}/{photo.label}/{photo.name}" for photo in placement.photos}
    refuse_collisions(source, targets.values())
    for label in placement.classes:
        (fresh / PHOTOS_FOLDER / label).mkdir(parents=True)
    verb, write = ("copying", _copy) if folder == source else ("sorting", os.replace)
    if folder == source:
        check_room(fresh, sum((folder / path).stat().st_size for path in targets), f"unpack {source}")
    with progress(verb, total=len(targets), unit="files") as advance:
        for path, target in targets.items():
            write(folder / path, fresh / target)
            advance(1)
    if placement.splits:
        rows = sorted((printable(targets[photo.path]), photo.split) for photo in placement.photos if photo.split)
        write_csv(fresh / SPLITS_FILE, [{"path": path, "split": split} for path, split in rows])
    return placement


def _copy(path: Path, target: Path) -> None:
    with reading(path):
        file = path.open("rb")
    with file, target.open("xb") as copy:
        shutil.copyfileobj(file, copy)


MAGIC = b"PAR1"
SUFFIX = ".parquet"
ROWS_AT_ONCE = 64


def parquet_files(source: Path) -> list[Path]:
    """The source itself where it is a Parquet file, those in it where it is a folder of them; none otherwise."""
    if source.is_dir():
        return sorted(source.glob(f"*{SUFFIX}"))
    with source.open("rb") as file:
        return [source] if file.read(len(MAGIC)) == MAGIC else []


def extract_parquet(files: list[Path], folder: Path) -> None:
    """Write the photos of Parquet files, and a list of their labels, into a folder, which is made.

    A PipelineError says that a file is damaged, is a decompression bomb, has no column of pictures or of classes, holds a class
    that it does not name, or names no split where others do, or that the disk is too small; an OSError that a file cannot be
    written.
    """
    import pyarrow.parquet

    folder.mkdir(parents=True)
    splits = {path: first_split(re.split("[-_. ]", path.stem)) for path in files}
    several = len(set(splits.values())) > 1
    if odd := [path for path, split in splits.items() if several and not split]:
        raise PipelineError(f"{odd[0]} names no split, as files beside it do: name it for train, val or test, or move it away.")
    rows: Counter[str] = Counter()
    listed = []
    for path, split in splits.items():
        left = max_bytes(path.stat().st_size)
        check_room(folder, path.stat().st_size, f"unpack {path}")  # photos are compressed already
        with reading(path):
            file = pyarrow.parquet.ParquetFile(path)
        with file, progress(f"unpacking {path.name}", total=file.metadata.num_rows) as advance:
            for picture, label in _rows(path, file):
                left -= len(picture)
                if left < 0:
                    raise PipelineError(f"{path} is refused as a decompression bomb: it unpacks to far more than photos do.")
                check_class_name(path, label)
                target = folder.joinpath(split if several else "", f"{rows[split]}.jpg")
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(picture)
                listed.append({"path": target.relative_to(folder).as_posix(), "label": label})
                rows[split] += 1
                advance(1)
    write_csv(folder / "labels.csv", listed)


def _rows(path: Path, file: Any) -> Iterator[tuple[bytes, str]]:
    """Each photo's bytes (empty where the cell is) and class, in the order of rows; `file` is a pyarrow.parquet.ParquetFile."""
    with reading(path):
        image, label, names = _columns(path, file.schema_arrow)
        classes = dict(enumerate(names))
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=[f"{image}.bytes", label]):
            for row in batch.to_pylist():
                value = row[label]
                name = classes.get(value) if isinstance(value, int) else None if classes else value
                if not isinstance(name, str) or not name:
                    raise PipelineError(f"{path}: the column {label!r} holds {value!r}, which is no class.")
                yield (row[image] or {}).get("bytes") or b"", name


def _columns(path: Path, schema: Any) -> tuple[str, str, list[str]]:
    """The columns of pictures and of classes, and the names of the classes where they are stored as numbers."""
    import pyarrow

    images = [column.name for column in schema if pyarrow.types.is_struct(column.type) and "bytes" in column.type.names]
    # How the datasets library describes each column, where it wrote the file.
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = {
        name: feature["names"]
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }
    labels = [name for name in names or ("label", "labels") if name in schema.names]
    if len(images) != 1 or len(labels) != 1:
        raise PipelineError(
            f"{path} needs one column of pictures (a struct with bytes) and one of classes, and has {', '.join(schema.names)}."
        )
    return images[0], labels[0], [str(name) for name in names.get(labels[0], ())]
