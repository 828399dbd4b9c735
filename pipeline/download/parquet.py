"""Photos in Parquet files, as the Hugging Face hub keeps them: a column of pictures' bytes, one of classes, a row a photo.

The photo of row 12 whose class is "cat" becomes the member cat/12.jpg; where the files' names tell several splits
(train-00000-of-00002, test-00000-of-00001), train/cat/12.jpg. Rows are counted over all files of a split, in the order of
the files' names.
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from pipeline.download.predefined import split_named
from pipeline.errors import PipelineError

MAGIC = b"PAR1"
SUFFIX = ".parquet"
MAX_GROUP_BYTES = 2**31  # a row group is read as a whole


@dataclass(frozen=True)
class Cell:
    """A photo of a Parquet file: its split ("" where the files tell none), class, row, size in bytes, and how to open it."""

    split: str
    label: str
    row: int
    size: int
    open: Callable[[], IO[bytes]]


@dataclass
class _Table:
    """One Parquet file, and the row group of it that was read last: photos are read in the order of rows."""

    path: Path
    file: Any  # pyarrow.parquet.ParquetFile; pyarrow is imported where it is needed alone
    image: str
    label: str
    names: list[str] | None
    _group: tuple[int, Any] = field(default=(-1, None))

    def pictures(self, group: int) -> Any:
        """The pictures' bytes in a row group, a pyarrow array of binary."""
        if self._group[0] != group:
            size = self.file.metadata.row_group(group).total_byte_size
            if not 0 <= size <= MAX_GROUP_BYTES:
                raise PipelineError(f"{self.path}: row group {group} has {size:,} bytes, which is refused.")
            column = self.file.read_row_group(group, columns=[f"{self.image}.bytes"]).column(0).combine_chunks()
            self._group = (group, column.field("bytes"))
        return self._group[1]

    def labels(self, group: int) -> list[str]:
        """The class of each row of a row group."""
        values = self.file.read_row_group(group, columns=[self.label]).column(0).to_pylist()
        if self.names is None:
            if bad := [value for value in values if not isinstance(value, str) or not value]:
                raise PipelineError(f"{self.path}: the column {self.label!r} holds {bad[0]!r}, which is no class.")
            return values
        if bad := [value for value in values if not isinstance(value, int) or not 0 <= value < len(self.names)]:
            raise PipelineError(f"{self.path}: the column {self.label!r} holds {bad[0]!r}, which is none of its classes.")
        return [self.names[value] for value in values]

    def open(self, group: int, index: int) -> IO[bytes]:
        """The bytes of one photo; none where the cell is empty."""
        return io.BytesIO(self.pictures(group)[index].as_py() or b"")


def parquet_cells(files: Sequence[Path]) -> Iterator[Cell]:
    """List the photos in Parquet files, in order; they can be opened while the iterator's files exist.

    Raises:
        PipelineError: a file has no column of pictures or of classes, or a class that it does not name.
        OSError, ValueError: a file cannot be read, or is no Parquet file.
    """
    import pyarrow.compute as compute

    splits = {file: split_named(file.name.split("-")[0].removesuffix(SUFFIX)) for file in files}
    if len(set(splits.values())) == 1:
        splits = dict.fromkeys(files, "")
    rows = dict.fromkeys(splits.values(), 0)
    for path in sorted(files):
        table = _opened(path)
        for group in range(table.file.num_row_groups):
            sizes = compute.fill_null(compute.binary_length(table.pictures(group)), 0).to_pylist()
            for index, (size, label) in enumerate(zip(sizes, table.labels(group), strict=True)):
                yield Cell(splits[path], label, rows[splits[path]], size, partial(table.open, group, index))
                rows[splits[path]] += 1


def _opened(path: Path) -> _Table:
    import pyarrow
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)
    schema = file.schema_arrow
    images = [
        column.name for column in schema if pyarrow.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0
    ]
    features = _features(schema.metadata)
    classes = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    labels = classes or [name for name in ("label", "labels") if name in schema.names]
    if len(images) != 1 or len(labels) != 1:
        raise PipelineError(
            f"{path} needs one column of pictures (a struct with bytes) and one of classes, and has {', '.join(schema.names)}."
        )
    names = features.get(labels[0], {}).get("names")
    return _Table(path, file, images[0], labels[0], [str(name) for name in names] if names else None)


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, dict[str, Any]]:
    """What the datasets library notes of each column; empty where another program wrote the file."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    except (ValueError, AttributeError):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
