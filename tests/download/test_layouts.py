"""Layouts and predefined splits: recognised in every kind of archive, refused where they are ambiguous."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.download.layouts import place, split_named
from pipeline.download.listing import NO_PHOTO, is_photo_name
from pipeline.download.unpack import unpack_photos
from pipeline.errors import PipelineError
from pipeline.preprocess.split import read_splits
from tests.download.packing import SOURCES, files_below, pack

UNLABELLED = "in a folder of a split, without a class of the training photos"
NO_CLASS = "in no class folder"
STRAY = "in a folder of documentation or samples"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
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
    ("layout", "files", "names", "left_out"),
    [
        (
            "published",
            PUBLISHED,
            {name: name.removeprefix("kaggle/") for name in PUBLISHED if is_photo_name(name)},
            {"kaggle/PetImages/Cat/Thumbs.db": "hidden", "kaggle/readme[1].txt": NO_PHOTO},
        ),
        (
            "flat",
            FLAT,
            {
                "train/cat.0.jpg": "PetImages/Cat/0.jpg",
                "train/cat.12.png": "PetImages/Cat/12.png",
                "train/DOG.0.jpg": "PetImages/Dog/0.jpg",
            },
            {"test1/1.jpg": UNLABELLED, "train/dog.1.txt": NO_PHOTO, "train/notes.txt": NO_PHOTO},
        ),
        (
            "class folders",
            CLASSES,
            {name: name.replace("photos", "PetImages") for name in CLASSES if is_photo_name(name)},
            dict.fromkeys(["photos/readme.md", "photos/wild dogs/list.csv"], NO_PHOTO),
        ),
    ],
)
def test_layouts(
    tmp_path: Path, kind: str, layout: str, files: dict[str, bytes], names: dict[str, str], left_out: dict[str, str]
) -> None:
    unpacked = unpack_photos(pack(kind, files, tmp_path), tmp_path / "data/raw")
    assert (unpacked.layout, unpacked.left_out, unpacked.splits) == (layout, left_out, {})
    assert unpacked.classes == Counter(target.split("/")[1] for target in names.values())
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
        "PetImages/Cat/@eaDir/0.jpg": b"thumbnail",
        "$RECYCLE.BIN/0.jpg": b"",
        "PetImages/Dog/1.NEF": b"II*\0",
    }
    unpacked = unpack_photos(pack("zip", names, tmp_path), tmp_path / "raw")
    raw = {"PetImages/Dog/1.NEF": "camera RAW: export it as JPEG"}
    assert unpacked.left_out == raw | dict.fromkeys(set(names) & set(unpacked.left_out) - set(raw), "hidden")
    assert set(files_below(tmp_path / "raw")) == {"PetImages/Cat/0.jpg", "PetImages/Dog/0.jpg"}


def photos(*folders: str, number: int = 3) -> dict[str, bytes]:
    return {f"{folder}/{i}.jpg": b"" for folder in folders for i in range(number)}


TWO, MANY = photos("cats", "dogs"), photos("cats", "dogs", number=50)
FLAT_TRAIN = {f"train/train/{name}.{i}.jpg": b"" for name in ("cat", "dog") for i in range(3)}
BREEDS = b"id,breed\n0,pug\n1,pug\n2,husky\n"
P_SPLITS = b"path,split\np/0.jpg,train\np/1.jpg,train\np/2.jpg,test"
TRAIN_AND_TEST = b"path,label\ntrain/0.jpg,a\ntrain/1.jpg,b\ntest/0.jpg,a\ntest/1.jpg,b"


@pytest.mark.parametrize(
    ("files", "classes", "splits", "left_out"),
    [
        # photos that are none of the set's
        ({**MANY, "samples/cat.1.jpg": b"", "samples/dog.1.jpg": b""}, "cats 50, dogs 50", "", {STRAY: 2}),
        (
            {**TWO, "docs/logo.png": b"", "preview.png": b"", "x.md": b""},
            "cats 3, dogs 3",
            "",
            {STRAY: 1, NO_CLASS: 1, NO_PHOTO: 1},
        ),
        ({**photos("images/cats", "images/dogs"), "docs/logo.png": b""}, "cats 3, dogs 3", "", {STRAY: 1}),
        ({**MANY, **photos("lynx"), "notes/a.xml": b""}, "cats 50, dogs 50, lynx 3", "", {NO_PHOTO: 1}),
        (photos("docs", "photos"), "docs 3, photos 3", "", {}),
        # a photo that was moved to the folder of its class, and keeps its name
        (
            {f"{name}s/{name}.{i}.jpg": b"" for name in ("cat", "dog") for i in range(1, 60)} | {"dogs/cat.0.jpg": b""},
            "cats 59, dogs 60",
            "",
            {},
        ),
        (
            {f"cats/cat.{i}.jpg": b"" for i in range(60)}
            | {f"{'cats' if i < 4 else 'dogs'}/dog.{i}.jpg": b"" for i in range(60)},
            "cats 64, dogs 56",
            "",
            {},
        ),
        ({f"train/{'dog' if i < 3 else 'cat'}.{i}.jpg": b"" for i in range(100)}, "Cat 97, Dog 3", "", {}),
        # splits as Kaggle packs them, and classes that are called like splits
        (
            photos(*(f"{split}_set/{split}_set/{name}" for split in ("training", "test") for name in ("cats", "dogs"))),
            "cats 6, dogs 6",
            "test 6, train 6",
            {},
        ),
        (
            photos(
                *(f"seg_{split}/seg_{split}/{name}" for split in ("train", "test") for name in ("ice", "sea")),
                "seg_pred/seg_pred",
            ),
            "ice 6, sea 6",
            "test 6, train 6",
            {NO_CLASS: 3},
        ),
        (photos("train/cats", "train/dogs", "test"), "cats 3, dogs 3", "", {UNLABELLED: 3}),
        (photos("train/cats", "train/dogs", "test/unknown"), "cats 3, dogs 3", "", {UNLABELLED: 3}),
        ({**FLAT_TRAIN, **photos("test1/test1")}, "Cat 3, Dog 3", "", {UNLABELLED: 3}),
        (photos("bus", "car", "train"), "bus 3, car 3, train 3", "", {}),
        (photos("bus", "car", "train/2023", "train/2024"), "bus 3, car 3, train 6", "", {}),
        # splits below the classes, but not where a photo lies in none
        (photos("x/a/train", "x/a/test", "x/b/train", "x/b/Test", "docs"), "a 6, b 6", "test 6, train 6", {STRAY: 3}),
        (photos("a/train", "a/test", "b/train", "b/test", "b/more"), "a 6, b 9", "", {}),
        # masks
        (
            photos("a/images", "a/masks", "b/images", "b/lung masks", "b/infection masks"),
            "a 3, b 3",
            "",
            {"in a folder of masks": 9},
        ),
        (photos("a/masks", "a/no masks", "b/masks"), "a 6, b 3", "", {}),
        # lists of labels
        (
            {
                **photos("x/train/all", "x/test/all"),
                **{f"x/{name}/labels.csv": BREEDS for name in ("train", "test")},
            },
            "husky 2, pug 4",
            "test 3, train 3",
            {NO_PHOTO: 2},
        ),
        (
            {**photos("train", "test"), "train/train.csv": BREEDS, "test/test.csv": BREEDS, "x/labels.csv": b"id,label\n"},
            "husky 2, pug 4",
            "test 3, train 3",
            {NO_PHOTO: 3},
        ),
        (
            {**photos("a/b", "a/c", number=9), "a/x/labels.csv": b"path,label\nb/0.jpg,x\nb/1.jpg,y\nc/2.jpg,y"},
            "x 1, y 2",
            "",
            {NO_PHOTO: 1, "no label in labels.csv": 15},
        ),
        (
            {f"{i // 5}/{i}.jpg": b"" for i in range(10)} | {"labels.csv": b"id,label\n0,a\n1,b\n"},
            "0 5, 1 5",
            "",
            {NO_PHOTO: 1},
        ),
        ({**MANY, **photos("samples"), "samples/labels.csv": BREEDS}, "cats 50, dogs 50", "", {STRAY: 3, NO_PHOTO: 1}),
        (
            {**TWO, **{f"{name}/labels.csv": f"id,label\n0,{name}".encode() for name in ("cats", "dogs")}},
            "cats 3, dogs 3",
            "",
            {NO_PHOTO: 2},
        ),
        (
            {
                "A.JPG": b"",
                "é.jpg": b"",
                "b.jpg": b"",
                "B.png": b"",
                "labels.csv": "id,label,split\na.jpg,x,train\ne\u0301,x,train\nb,y,val\n,,\n".encode(),
            },
            "x 2, y 1",
            "train 2, val 1",
            {NO_PHOTO: 1, "no label in labels.csv": 1},
        ),
        ({**photos("train", "test"), "labels.csv": BREEDS}, "husky 1, pug 2", "", {NO_PHOTO: 1, "no label in labels.csv": 3}),
        ({**photos("a/b", number=4), "a/train.csv": BREEDS}, "husky 1, pug 2", "", {NO_PHOTO: 1, "no label in train.csv": 1}),
        (
            {
                **photos("p", number=4),
                "train.csv": b"image;label\n0.jpg;a\n1.jpg;b",
                "val.csv": b"image;label\np/2.jpg;a\np/3.jpg;b",
            },
            "a 2, b 2",
            "train 2, val 2",
            {NO_PHOTO: 2},
        ),
        (
            {**photos(".", number=3), "labels.csv": b"filename,class,split\n0.jpg,a,train\n1.jpg,b,Train\n2.jpg,a,holdout"},
            "a 2, b 1",
            "test 1, train 2",
            {NO_PHOTO: 1},
        ),
        ({**TWO, "labels.csv": b"id,label\n0,cat\n1,dog\n"}, "cats 3, dogs 3", "", {NO_PHOTO: 1}),  # names of classes
        ({**TWO, "test.csv": b"colour,mood\n" + 9000 * b"red,fine\n" + b"\xe9"}, "cats 3, dogs 3", "", {NO_PHOTO: 1}),
        (
            {**photos("p", number=3), "labels.csv": b"id,label,split\np/0.jpg,a,train", "label.csv": b"id,label\np/1.jpg,b"},
            "a 1, b 1",
            "train 1",
            {NO_PHOTO: 2, "no label in label.csv and labels.csv": 1},
        ),
        (
            {**photos("p"), "labels.csv": b"id,label\n0,a\n1,b\n2,b", "splits.csv": P_SPLITS},
            "a 1, b 2",
            "test 1, train 2",
            {NO_PHOTO: 2},
        ),
        (
            {**photos("x/train", "x/test", number=2), "x/annotations/labels.csv": TRAIN_AND_TEST},
            "a 2, b 2",
            "test 2, train 2",
            {NO_PHOTO: 1},
        ),
        (
            {**photos("bus", "train", number=1), "labels.csv": b"path,label\nbus/0.jpg,a\ntrain/0.jpg,b"},
            "a 1, b 1",
            "",
            {NO_PHOTO: 1},
        ),
        # class names as they are written
        (photos("का", "कि", "age <5", "age >5", "C#", "C+", "😀"), "C# 3, C+ 3, age <5 3, age >5 3, का 3, कि 3, 😀 3", "", {}),
    ],
)
def test_what_people_have(tmp_path: Path, files: dict[str, bytes], classes: str, splits: str, left_out: dict[str, int]) -> None:
    unpacked = unpack_photos(pack("folder", files, tmp_path), tmp_path / "raw")
    assert ", ".join(f"{name} {count}" for name, count in unpacked.classes.items()) == classes
    assert ", ".join(f"{name} {count}" for name, count in unpacked.splits.items()) == splits
    assert Counter(unpacked.left_out.values()) == left_out
    assert sum(unpacked.classes.values()) + len(unpacked.left_out) == len(files)
    listed = (tmp_path / "raw/splits.csv").read_text().splitlines()[1:] if splits else []
    assert len(listed) == sum(unpacked.splits.values())


def test_classes_that_hold_the_same_folders_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for names, told in (("mild non", True), ("mild", False), ("train test", False)):
        files = photos(*(f"{label}/{name}" for label in ("AugmentedX", "OriginalX") for name in names.split()))
        (tmp_path / names).mkdir()
        unpack_photos(pack("zip", files, tmp_path / names), tmp_path / names / "raw")
        assert ("Each class holds mild, non: if those are" in capsys.readouterr().out) == told


def test_photos_below_class_folders_get_names_of_their_own(tmp_path: Path) -> None:
    names = ["cats/a.jpg", "cats/2023/june/a.jpg", "cats/2023_june/a.jpg", "cats/b/c.jpg", "dogs/x/y.jpg"]
    names += [f"cats/{folder}/{'long' * 61}.jpg" for folder in ("one folder", "another folder")]
    files = {name: name.encode() for name in names}
    unpack_photos(pack("folder", files, tmp_path), tmp_path / "raw")
    written = {content.decode(): path.removeprefix("PetImages/") for path, content in files_below(tmp_path / "raw").items()}
    assert [written[name] for name in (names[0], *names[3:5])] == ["cats/a.jpg", "cats/c.jpg", "dogs/y.jpg"]
    assert all(re.fullmatch(r"cats/[0-9a-f]{12}\.jpg", written[name]) for name in (*names[1:3], *names[5:]))


def test_content_decides_where_the_suffix_does_not(tmp_path: Path) -> None:
    heads = {
        "jpeg": b"\xff\xd8\xff\xe0",
        "gif": b"GIF89a",
        "heic": b"\0\0\0\x18ftypheic",
        "avif": b"\0\0\0\x1cftypavif",
        "webp": b"RIFF\n\0\0\0WEBP",
    }
    files = {f"{folder}/{name}": head for folder in "cd" for name, head in heads.items()}
    others = {"c/film": b"\0\0\0\x18ftypisom", "c/text.dat": b"BM is a text", "c/broken.jfif": b"", "d/pointer.jpg": POINTER}
    unpacked = unpack_photos(pack("zip", files | others, tmp_path), tmp_path / "raw")
    assert unpacked.classes == {"c": 6, "d": 5}
    assert unpacked.left_out == {"c/film": NO_PHOTO, "c/text.dat": NO_PHOTO, "d/pointer.jpg": "Git LFS pointer"}


def test_links_of_a_folder_are_followed_and_end(tmp_path: Path) -> None:
    source = pack("folder", {**TWO, "elsewhere.txt": b""}, tmp_path)
    (tmp_path / "store").mkdir()
    pack("folder", photos("lynx", number=4), tmp_path / "store")
    (source / "lynx").symlink_to(tmp_path / "store/source/lynx")
    (source / "cats/more.jpg").symlink_to(tmp_path / "store/source/lynx/0.jpg")
    (source / "README.md").symlink_to("elsewhere.txt")
    (source / "cats/gone.jpg").symlink_to("nowhere.jpg")
    (source / "cats/self.jpg").symlink_to("self.jpg")
    for name, target in {"cats/all": "..", "dogs/cats": "../cats", "dogs/up": tmp_path}.items():
        (source / name).symlink_to(target)
    os.mkfifo(source / "pipe.jpg")
    unpacked = unpack_photos(source, tmp_path / "raw")
    assert unpacked.classes == {"cats": 4, "dogs": 3, "lynx": 4}
    again = dict.fromkeys(["cats/all", "dogs/cats", "dogs/up"], "link to a folder that is read anyway")
    again["pipe.jpg"] = "device or pipe"
    nothing = dict.fromkeys(["cats/gone.jpg", "cats/self.jpg"], "link to nothing")
    assert unpacked.left_out == dict.fromkeys(["README.md", "elsewhere.txt"], NO_PHOTO) | again | nothing


def test_names_that_are_not_utf8_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pack("folder", TWO, tmp_path)
    Path(os.fsdecode(os.fsencode(source) + b"/cats/\xff.jpg")).write_bytes(b"")
    unpacked = unpack_photos(source, tmp_path / "raw")
    assert (unpacked.classes, unpacked.left_out) == ({"cats": 3, "dogs": 3}, {"cats/\\xff.jpg": "name that is not UTF-8"})
    assert "Left out 1 (name that is not UTF-8): cats/\\xff.jpg" in capsys.readouterr().out


PIECES = ["cats", "dogs", "train", "test_set", "PetImages", "docs", "a", "a_b"]
PATHS = st.tuples(
    st.lists(st.sampled_from(PIECES), max_size=4), st.sampled_from(["a.jpg", "A.JPG", "cat.1.jpg", "dog.1.jpg", "b"])
)


@settings(max_examples=200)
@given(found=st.sets(PATHS.map(lambda path: "/".join([*path[0], path[1]])), max_size=12))
def test_every_file_is_accounted_for(found: set[str]) -> None:
    files = {path: "" if is_photo_name(path) else NO_PHOTO for path in sorted(found | {"cats/0.jpg", "dogs/0.jpg"})}
    try:
        _, placed, left_out = place(Path("source"), Path("source"), files, [])
    except PipelineError:
        assume(False)  # too many of them would fail the test
    assert sorted([*left_out, *(photo.path for photo in placed)]) == list(files)
    assert len({(photo.label, photo.name.casefold()) for photo in placed}) == len(placed)
    assert all(left_out.values())


SMALL = {"PetImages/Cat/0.jpg": b"new cat", "PetImages/Dog/0.jpg": b"new dog"}
LISTED = {f"PetImages/{label}/{i}.jpg": b"" for label in ("Cat", "Dog") for i in range(2)}


def labels(table: str) -> dict[str, bytes]:
    return {**photos("train"), "labels.csv": table.encode()}


def splits(table: bytes) -> dict[str, bytes]:
    return {**LISTED, "splits.csv": table}


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
        ({"x/Cat/0.jpg": b"", "x/Dog/0.jpg": b"", "x/Elk/": b""}, "class folder 'x/Elk' is empty"),
        ({**SMALL, "PetImages/Elk/Thumbs.db": b"", "PetImages/Elk/.gitkeep": b""}, "class folder 'PetImages/Elk' is empty"),
        (photos("x/sick", "x/well", "x/x/sick", "x/x/well"), "2 sets of photos, one beside 'x/x' and one in it: give it"),
        (
            photos("a_train/a_train/A", "a_train/a_train/B", "a_test"),
            "would have the classes a_test, a_train, but a_test, a_train are named for splits: give the one",
        ),
        (photos("fruit-train-set/a", "fruit-train-set/b", "fruit-test-set/a", "fruit-test-set/b"), "are named for splits"),
        (
            photos("train/c", "train/d", "test/c", "test/d") | photos("unlabeled", number=20),
            "classes test, train, unlabeled, but test, train are named",
        ),
        ({**photos("a/x", "b/x"), "a/labels.csv": BREEDS, "b/labels.csv": BREEDS}, "2 sets of photos, in 'a', 'b'"),
        ({**SMALL, "old/PetImages/Cat/1.jpg": b""}, r"2 sets of photos, in 'PetImages', 'old/PetImages'"),
        ({f"{part}/{name}.0.jpg": b"" for part in "ab" for name in ("cat", "dog")}, "2 sets of photos, in 'a', 'b'"),
        ({f"{part}/{name}/0.jpg": b"" for part in ("train", "extra/train") for name in "cd"}, "2 sets of photos"),
        ({"images/pug_1.jpg": b"", "annotations/trimaps/pug_1.png": b""}, "no photos in a known layout"),
        (
            {"photos/a.jpg": b"", "photos/b.jpg": b"", "docs/c.jpg": b""},
            r"(?s)\(photos\).*Left out 1 \(in a folder of documentation",
        ),
        ({f"{name}/0.jpg": POINTER for name in "cd"}, "holds Git LFS pointers in place of 2 photos.*git lfs pull"),
        (labels("id,label\n0,cat\n1,dog\n8,dog\n9,dog"), r"labels.csv lists 2 photos that are not there: '8', '9'\."),
        (
            {**TWO, "labels.csv": b"path,label\nC:\\x\\cats\\0.jpg,a\nC:\\x\\dogs\\0.jpg,b"},
            r"lists 2 photos that are not there: .* Paths start at the folder of the list",
        ),
        (labels("id,label\n0,a\n0,b"), "lists '0' more than once, with several classes or splits"),
        (labels("id,label\n0,n/a\n1,b"), "the class 'n/a' cannot be the name of a folder"),
        (labels("id,label\n0,..\n1,b"), "the class '..' cannot be the name of a folder"),
        (labels("id,label,split\n0,a,spare"), "has '0' in the split 'spare': say train, val or test"),
        (labels("id,label\n0,Cat\n1,cat"), "'PetImages/Cat' and 'PetImages/cat' would be one"),
        (labels("id,label\n0,a\n1,a"), r"one class only \(a\)"),
        (
            {**photos("train", "test", "more", number=2), "labels.csv": TRAIN_AND_TEST + b"\nmore/0.jpg,a"},
            "'test/0.jpg', which lies in a folder of the split test, and 'more/0.jpg', which lies in none",
        ),
        ({**labels("id,label,split\n0,a,train\n1,b,test"), "splits.csv": b""}, "'splits.csv': the list of labels, or folders"),
        (splits(b"path\nPetImages/Cat/0.jpg"), "needs the columns path and split, and has path"),
        (splits(b"path,split\nPetImages/Cat/0.jpg,spare"), "has 'PetImages/Cat/0.jpg' in the split 'spare': list a path once"),
        (splits(b"path,split\na,train\na,test"), "list a path once, as train, val or test"),
        (splits(b"path,split\nPetImages/Cat/9.jpg,train"), "lists 1 files that are not there, such as 'PetImages/Cat/9.jpg'"),
        (splits(b"path,split\nPetImages/Cat/0.jpg,train"), "does not list 3 photos, such as 'PetImages/Cat/1.jpg'"),
        (splits(b"path,split\n\xff\xff,train"), "'splits.csv' is not UTF-8: save it as CSV UTF-8"),
        ({**TWO, "labels.csv": "path,label\n0.jpg,a".encode("utf-16")}, "'labels.csv' is not UTF-8"),
    ],
)
def test_what_is_refused(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
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


def test_names_of_splits() -> None:
    names = {
        "train": "train Training training_set train_set seg_train train-images",
        "val": "val valid Validation validation_set val_set dev",
        "test": "test testing test_set seg_test eval evaluation holdout hold-out test1 TestSet",
        "": "trainer testament latest contest devil seg_pred set images",
    }
    assert {
        split: " ".join(name for name in " ".join(names.values()).split() if split_named(name) == split) for split in names
    } == names


@pytest.mark.parametrize(
    ("pattern", "names", "expected"),
    [
        ("set/{name}/{label}/{i}.jpg", ("train", "val", "test"), "PetImages/{label}/{i}.jpg"),
        ("set/{name}/{label}/{i}.jpg", ("Training", "validation_set", "HOLDOUT"), "PetImages/{label}/{i}.jpg"),
        ("{name}/{label}.{i}.jpg", ("train", "val", "test"), "PetImages/{Label}/{i}.jpg"),
        ("PetImages/{name}/{label}/{i}.jpg", ("train", "val", "test"), "PetImages/{label}/{i}.jpg"),
        (
            "{name}/{label}/same.jpg",
            ("train", "val", "test"),
            "PetImages/{label}/{split}_same.jpg",
        ),  # in all splits
    ],
)
def test_folders_of_splits(tmp_path: Path, pattern: str, names: Sequence[str], expected: str) -> None:
    fields = [
        {"name": name, "split": split, "label": label, "Label": label.capitalize(), "i": i}
        for i, (name, split) in enumerate(zip(names, ("train", "val", "test"), strict=True))
        for label in ("cat", "dog")
    ]
    photos, splits = unpacked(tmp_path, {pattern.format(**field): str(field).encode() for field in fields})
    assert splits == {expected.format(**field): field["split"] for field in fields}
    assert photos == {expected.format(**field): str(field).encode() for field in fields}


def test_one_folder_called_train_is_no_split_and_leaves_no_earlier_ones(tmp_path: Path) -> None:
    unpacked(tmp_path, {f"{split}/{name}/0.jpg": b"" for split in ("train", "val") for name in "cd"})
    _, splits = unpacked(tmp_path, {f"train/{name}/0.jpg": b"" for name in "cd"})
    assert splits == {}


@pytest.mark.parametrize(("folder", "name"), [("", "splits.csv"), ("PetImages/", "Splits.CSV")])
def test_a_list_of_splits(tmp_path: Path, folder: str, name: str) -> None:
    rows = [f"{path.removeprefix(folder)},{split},x" for path, split in zip(LISTED, ["train", "test"] * 2, strict=True)]
    table = "\ufeffpath,split,note\r\n" + "\r\n".join(rows)
    photos, splits = unpacked(tmp_path, {**LISTED, "PetImages/Cat/Thumbs.db": b"", folder + name: table.encode()})
    assert set(photos) == set(LISTED)
    assert splits == dict(zip(LISTED, ["train", "test"] * 2, strict=True))
