"""Photos in Parquet files, as the Hugging Face hub stores them: a column of encoded pictures, one of classes, a row a photo.

The photo of row 12 becomes the file 12.jpg, and its class a row of labels.csv; where the files are named by several splits
(train-00000-of-00002, test-00000-of-00001), train/12.jpg. Rows are counted over all files of a split, in order.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.download.extract import max_bytes, reading
from pipeline.download.layouts import check_class_name, first_split
from pipeline.errors import PipelineError
from pipeline.files import check_room, write_csv
from pipeline.progress import progress

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

    Raises:
        PipelineError: a file is damaged, is a decompression bomb, has no column of pictures or of classes, holds a class that
            it does not name, or names no split where others do; or the disk is too small.
        OSError: a file cannot be written.
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
