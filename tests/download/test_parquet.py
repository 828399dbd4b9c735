"""Photos in Parquet files: the hub's own form and plainer ones, and files that are damaged or say too little."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from pipeline.download.unpack import unpack_photos
from pipeline.errors import PipelineError
from pipeline.preprocess.split import read_splits
from tests.download.packing import files_below
from tests.refusals import refused

FEATURES = {"image": {"_type": "Image"}, "labels": {"names": ["cat", "dog"], "_type": "ClassLabel"}}


def hub_parquet(path: Path, photos: list[bytes | None], labels: list[Any], features: dict[str, Any] | None = FEATURES) -> Path:
    """A Parquet file as the datasets library writes it, two rows a group."""
    pictures = [None if photo is None else {"bytes": photo, "path": None} for photo in photos]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"image": pyarrow.array(pictures, kind), "labels": labels})
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, row_group_size=2, compression="zstd")
    return path


def test_photos_become_files_by_class_and_row(tmp_path: Path) -> None:
    hub_parquet(tmp_path / "set/train-00000-of-00002.parquet", [b"a", b"bb", b"", b"dddd", b"e"], [0, 1, 0, 1, 1])
    captions = {"captions": [{"dtype": "string"}]}  # as earlier versions of the library write a list
    hub_parquet(tmp_path / "set/train-00001-of-00002.parquet", [b"f", None], [0, 0], FEATURES | captions)
    unpacked = unpack_photos(tmp_path / "set", tmp_path / "raw")
    assert (unpacked.classes, unpacked.splits) == ({"cat": 4, "dog": 3}, {})
    files = {"cat/0": b"a", "dog/1": b"bb", "cat/2": b"", "dog/3": b"dddd", "dog/4": b"e", "cat/5": b"f", "cat/6": b""}
    assert files_below(tmp_path / "raw") == {f"PetImages/{name}.jpg": content for name, content in files.items()}


@pytest.mark.parametrize("pattern", ["{}-00000-of-00001", "mnist_{}"])
def test_several_splits_are_kept(tmp_path: Path, pattern: str) -> None:
    for name in ("train", "test"):
        hub_parquet(tmp_path / f"set/{pattern.format(name)}.parquet", [name.encode()] * 2, [0, 1])
    unpack_photos(tmp_path / "set", tmp_path / "raw")
    assert read_splits(tmp_path / "raw") == {
        f"PetImages/{label}/{split}_{row}.jpg": split for split in ("test", "train") for row, label in enumerate(("cat", "dog"))
    }
    hub_parquet(tmp_path / "set/extra-00000-of-00001.parquet", [b""], [0])
    with pytest.raises(PipelineError, match=r"extra-00000-of-00001\.parquet names no split, as files beside it do"):
        unpack_photos(tmp_path / "set", tmp_path / "raw")


def test_one_file_and_classes_in_words(tmp_path: Path) -> None:
    file = hub_parquet(tmp_path / "photos.parquet", [b"a", b"b"], ["lynx", "wolf"], features=None)
    assert unpack_photos(file, tmp_path / "raw").classes == {"lynx": 1, "wolf": 1}


@pytest.mark.parametrize(
    ("labels", "features", "message"),
    [
        ([0, 2], FEATURES, r"'labels' holds 2, which is no class"),
        ([0.0, 1.0], FEATURES, r"'labels' holds 0.0"),
        (["cat", "typo"], FEATURES, r"'labels' holds 'cat'"),
        (["", "a"], None, r"'labels' holds ''"),
        ([0, 1], None, r"'labels' holds 0, which is no class"),
        (["a", "../../b"], None, r"the class '../../b' cannot be the name of a folder"),
        (["a", "b/c"], None, r"photos.parquet: the class 'b/c' cannot be the name of a folder"),
    ],
)
def test_classes_that_are_none(tmp_path: Path, labels: list[Any], features: dict | None, message: str) -> None:
    file = hub_parquet(tmp_path / "photos.parquet", [b"a", b"b"], labels, features)
    refused(message, unpack_photos, file, tmp_path / "raw")
    assert [path.name for path in tmp_path.iterdir()] == ["photos.parquet"]


def test_a_table_without_photos(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "label": [0]}), tmp_path / "words.parquet")
    refused(r"one column of pictures .* and has text, label", unpack_photos, tmp_path / "words.parquet", tmp_path / "raw")


def test_a_truncated_file(tmp_path: Path) -> None:
    file = hub_parquet(tmp_path / "photos.parquet", [bytes(range(256)) * 20] * 4, [0, 1, 0, 1])
    file.write_bytes(file.read_bytes()[:-100])
    refused("is damaged, cut short", unpack_photos, file, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.download.extract.HARMLESS_BYTES", 0)
    file = hub_parquet(tmp_path / "photos.parquet", [bytes(10**7)] * 2, [0, 1])
    refused("refused as a decompression bomb", unpack_photos, file, tmp_path / "raw")
