"""Layouts and predefined splits: recognised in every kind of archive, refused where they are ambiguous."""

import os
from pathlib import Path

import pytest

from pipeline.download.unpack import Unpacked, unpack_photos
from pipeline.errors import PipelineError
from pipeline.preprocess.split import read_splits
from tests.download.packing import SOURCES, files_below, pack

PUBLISHED = {
    "kaggle/PetImages/Cat/0.jpg": b"cat 0",
    "kaggle/PetImages/Cat/666.jpg": b"",
    "kaggle/PetImages/Cat/Thumbs.db": b"thumbs",
    "kaggle/PetImages/Dog/0.jpg": b"dog 0",
    "kaggle/PetImages/Dog/1.JPEG": b"dog 1",
    "kaggle/readme[1].txt": b"read me",
}
FLAT = {
    "train/cat.0.jpg": b"cat 0",
    "train/cat.12.png": b"cat 12",
    "train/DOG.0.jpg": b"dog 0",
    "train/notes.txt": b"",
    "train/dog.1.txt": b"",
    "test1/1.jpg": b"?",
}
CLASSES = {
    "photos/cats/a.jpg": b"a",
    "photos/wild dogs/b.webp": b"b",
    "photos/wild dogs/list.csv": b"c",
    "photos/Vögel/ü.jpg": b"d",
    "photos/readme.md": b"",
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(
    ("files", "names", "expected"),
    [
        (
            PUBLISHED,
            {name: name.removeprefix("kaggle/") for name in PUBLISHED if "PetImages" in name},
            Unpacked("published", {"Cat": 3, "Dog": 2}, ["kaggle/readme[1].txt"], {}),
        ),
        (
            FLAT,
            {
                "train/cat.0.jpg": "PetImages/Cat/0.jpg",
                "train/cat.12.png": "PetImages/Cat/12.png",
                "train/DOG.0.jpg": "PetImages/Dog/0.jpg",
            },
            Unpacked("flat", {"Cat": 2, "Dog": 1}, ["test1/1.jpg", "train/dog.1.txt", "train/notes.txt"], {}),
        ),
        (
            CLASSES,
            {name: name.replace("photos", "PetImages") for name in CLASSES if name.count("/") == 2},
            Unpacked("class folders", {"Vögel": 1, "cats": 1, "wild dogs": 2}, ["photos/readme.md"], {}),
        ),
    ],
    ids=["published", "flat", "class folders"],
)
def test_layouts(tmp_path: Path, kind: str, files: dict[str, bytes], names: dict[str, str], expected: Unpacked) -> None:
    unpacked = unpack_photos(pack(kind, files, tmp_path), tmp_path / "data/raw")
    assert unpacked.left_out.sort() is None
    assert unpacked == expected
    assert files_below(tmp_path / "data/raw") == {target: files[name] for name, target in names.items()}
    assert os.listdir(tmp_path / "data") == ["raw"]


def test_names_as_other_programs_write_them(tmp_path: Path) -> None:
    names = {
        "./": b"",
        "./PetImages\\Cat\\": b"",
        "./PetImages\\Cat\\0.jpg": b"cat",
        "PetImages//Dog/./0.jpg": b"dog",
        "__MACOSX/PetImages/Cat/._0.jpg": b"",
        "PetImages/.cache/0.jpg": b"",
        "PetImages/Cat/.DS_Store": b"mac",
    }
    unpacked = unpack_photos(pack("zip", names, tmp_path), tmp_path / "raw")
    assert sorted(unpacked.left_out) == ["PetImages/.cache/0.jpg", "__MACOSX/PetImages/Cat/._0.jpg"]
    assert set(files_below(tmp_path / "raw")) == {"PetImages/Cat/0.jpg", "PetImages/Dog/0.jpg", "PetImages/Cat/.DS_Store"}


SMALL = {"PetImages/Cat/0.jpg": b"new cat", "PetImages/Dog/0.jpg": b"new dog"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a.jpg": b"", "b.jpg": b""},
            r"no photos in a known layout. It holds 'a.jpg', 'b.jpg'\. Known layouts: .*PetImages/Cat/0",
        ),
        ({f"{i:02}.txt": b"" for i in range(99)}, r"holds '00.txt', '01.txt', .*'09.txt' and 89 more\."),
        ({}, "It holds no files"),
        ({"PetImages/Cat/0.jpg": b""}, r"one class only \(Cat\)"),
        ({**SMALL, "PetImages/Bird/Thumbs.db": b""}, "class folder 'PetImages/Bird' has no photos"),
        ({"x/Cat/0.jpg": b"", "x/Dog/0.jpg": b"", "x/Elk/": b""}, "class folder 'x/Elk' has no photos"),
        ({**SMALL, "old/PetImages/Cat/1.jpg": b""}, r"2 sets of photos, in 'PetImages', 'old/PetImages'"),
        ({f"{part}/{name}.0.jpg": b"" for part in "ab" for name in ("cat", "dog")}, "2 sets of photos, in 'a', 'b'"),
        ({f"{part}/{name}/0.jpg": b"" for part in ("train", "extra/train") for name in "cd"}, "2 sets of photos"),
    ],
)
def test_what_is_in_no_known_layout(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        unpack_photos(pack("zip", files, tmp_path), tmp_path / "data/raw")
    assert os.listdir(tmp_path / "data") == []


# Predefined splits


def unpacked(tmp_path: Path, files: dict[str, bytes]) -> tuple[dict[str, bytes], dict[str, str]]:
    """The files of data/raw, and the splits that preprocessing reads there."""
    unpack_photos(pack("zip", files, tmp_path), tmp_path / "raw")
    photos = files_below(tmp_path / "raw")
    photos.pop("splits.csv", None)
    return photos, read_splits(tmp_path / "raw")


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "validation", "TEST"), ("train", "dev", "testing")])
def test_folders_of_splits(tmp_path: Path, names: tuple[str, str, str]) -> None:
    files = {f"set/{name}/{label}/{label}{i}.jpg": b"%d" % i for i, name in enumerate(names) for label in ("cats", "dogs")}
    photos, splits = unpacked(tmp_path, files)
    expected = dict(enumerate(("train", "val", "test")))
    assert splits == {f"PetImages/{label}/{label}{i}.jpg": expected[i] for i in range(3) for label in ("cats", "dogs")}
    assert set(photos) == set(splits)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{split}/{label}.{i}.jpg", "PetImages/{Label}/{i}.jpg"),
        ("PetImages/{split}/{label}/{i}.jpg", "PetImages/{label}/{i}.jpg"),
        ("{split}/{label}/same.jpg", "PetImages/{label}/{split}_same.jpg"),  # a name that both splits use
    ],
)
def test_splits_in_each_layout(tmp_path: Path, pattern: str, expected: str) -> None:
    fields = [
        {"split": split, "label": label, "Label": label.capitalize(), "i": i}
        for i, split in enumerate(("train", "test"))
        for label in ("cat", "dog")
    ]
    photos, splits = unpacked(tmp_path, {pattern.format(**field): str(field).encode() for field in fields})
    assert splits == {expected.format(**field): field["split"] for field in fields}
    assert photos == {expected.format(**field): str(field).encode() for field in fields}


def test_one_folder_called_train_is_no_split_and_leaves_no_earlier_ones(tmp_path: Path) -> None:
    unpacked(tmp_path, {f"{split}/{name}/0.jpg": b"" for split in ("train", "val") for name in "cd"})
    _, splits = unpacked(tmp_path, {f"train/{name}/0.jpg": b"" for name in "cd"})
    assert splits == {}


LISTED = {f"PetImages/{label}/{i}.jpg": b"" for label in ("Cat", "Dog") for i in range(2)}


@pytest.mark.parametrize(("folder", "name"), [("", "splits.csv"), ("PetImages/", "Splits.CSV")])
def test_a_list_of_splits(tmp_path: Path, folder: str, name: str) -> None:
    rows = [f"{path.removeprefix(folder)},{split},x" for path, split in zip(LISTED, ["train", "test"] * 2, strict=True)]
    table = "\ufeffpath,split,note\r\n" + "\r\n".join(rows)
    photos, splits = unpacked(tmp_path, {**LISTED, "PetImages/Cat/Thumbs.db": b"", folder + name: table.encode()})
    assert "PetImages/Cat/Thumbs.db" in photos
    assert splits == dict(zip(LISTED, ["train", "test"] * 2, strict=True))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path\nPetImages/Cat/0.jpg", "needs the columns path and split, and has path"),
        ("path,split\nPetImages/Cat/0.jpg,holdout", "has 'PetImages/Cat/0.jpg' in the split 'holdout': list a path once"),
        ("path,split\na,train\na,test", "list a path once, as train, val or test"),
        ("path,split\nPetImages/Cat/9.jpg,train", "lists 1 files that are not there, such as 'PetImages/Cat/9.jpg'"),
        ("path,split\nPetImages/Cat/0.jpg,train", "does not list 3 photos, such as 'PetImages/Cat/1.jpg'"),
        (b"path,split\n\xff\xff,train", "is damaged.*decode"),
    ],
)
def test_a_list_that_does_not_fit(tmp_path: Path, table: str | bytes, message: str) -> None:
    content = table if isinstance(table, bytes) else table.encode()
    with pytest.raises(PipelineError, match=message):
        unpack_photos(pack("zip", {**LISTED, "splits.csv": content}, tmp_path), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
