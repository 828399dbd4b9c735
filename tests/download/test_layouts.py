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
# Each file: where it goes, or why it is left out.
LAYOUTS = {
    "published": {
        "kaggle/PetImages/Cat/0.jpg": "PetImages/Cat/0.jpg",
        "kaggle/PetImages/Cat/666.jpg": "PetImages/Cat/666.jpg",  # which is empty
        "kaggle/PetImages/Cat/Thumbs.db": "hidden",
        "kaggle/PetImages/Dog/0.jpg": "PetImages/Dog/0.jpg",
        "kaggle/PetImages/Dog/1.JPEG": "PetImages/Dog/1.JPEG",
        "kaggle/readme[1].txt": NO_PHOTO,
    },
    "flat": {
        "train/cat.0.jpg": "PetImages/Cat/0.jpg",
        "train/cat.12.png": "PetImages/Cat/12.png",
        "train/DOG.0.jpg": "PetImages/Dog/0.jpg",
        "train/notes.txt": NO_PHOTO,
        "train/dog.1.txt": NO_PHOTO,
        "test1/1.jpg": UNLABELLED,
    },
    "class folders": {
        "photos/cats/a.jpg": "PetImages/cats/a.jpg",
        "photos/wild dogs/b.webp": "PetImages/wild dogs/b.webp",
        "photos/wild dogs/list.csv": NO_PHOTO,
        "photos/Vögel/ü.jpg": "PetImages/Vögel/ü.jpg",
        "photos/readme.md": NO_PHOTO,
    },
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, kind: str, layout: str) -> None:
    files = {name: b"" if "666" in name else name.encode() for name in LAYOUTS[layout]}
    unpacked = unpack_photos(pack(kind, files, tmp_path), tmp_path / "data/raw")
    placed = {name: to for name, to in LAYOUTS[layout].items() if to.startswith("PetImages/")}
    left_out = {name: reason for name, reason in LAYOUTS[layout].items() if name not in placed}
    assert (unpacked.layout, unpacked.left_out, unpacked.splits) == (layout, left_out, {})
    assert unpacked.classes == Counter(target.split("/")[1] for target in placed.values())
    assert files_below(tmp_path / "data/raw") == {target: files[name] for name, target in placed.items()}
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


def named(*patterns: str, **lists: bytes) -> dict[str, bytes]:
    """Empty files by their names, with braces as a shell expands them, {a,b}/{0..2}.jpg; and lists by their stems."""
    files = {}
    for pattern in patterns:
        if braces := re.search(r"{([^}]*)}", pattern):
            first, dots, last = braces[1].partition("..")
            choices = range(int(first), int(last) + 1) if dots else braces[1].split(",")
            files |= named(*(pattern.replace(braces[0], str(one), 1) for one in choices), **lists)
        else:
            files[pattern] = lists.get(Path(pattern).stem, b"")
    return files


TWO = named("{cats,dogs}/{0..2}.jpg")
BREEDS = b"id,breed\n0,pug\n1,pug\n2,husky\n"
P_SPLITS = b"path,split\np/0.jpg,train\np/1.jpg,train\np/2.jpg,test"
TRAIN_AND_TEST = b"path,label\ntrain/0.jpg,a\ntrain/1.jpg,b\ntest/0.jpg,a\ntest/1.jpg,b"
NONE, OTHER_CASE = b"id,label\n", "id,label,split\na.jpg,x,train\ne\u0301,x,train\nb,y,val\n,,\n"
SPLIT_LISTS = {"train": b"image;label\n0.jpg;a\n1.jpg;b", "val": b"image;label\np/2.jpg;a\np/3.jpg;b"}
TWO_LISTS = {"labels": b"id,label,split\np/0.jpg,a,train", "label": b"id,label\np/1.jpg,b"}
OF_SPLITS = b"filename,class,split\n0.jpg,a,train\n1.jpg,b,Train\n2.jpg,a,holdout"


@pytest.mark.parametrize(
    ("files", "found", "left_out"),
    [
        # photos that are none of the set's
        (named("{cats,dogs}/{0..49}.jpg", "samples/{cat,dog}.1.jpg"), "cats 50, dogs 50", {STRAY: 2}),
        (TWO | named("docs/logo.png", "preview.png", "x.md"), "cats 3, dogs 3", {STRAY: 1, NO_CLASS: 1, NO_PHOTO: 1}),
        (named("images/{cats,dogs}/{0..2}.jpg", "docs/logo.png"), "cats 3, dogs 3", {STRAY: 1}),
        (named("{cats,dogs}/{0..49}.jpg", "lynx/{0..2}.jpg", "notes/a.xml"), "cats 50, dogs 50, lynx 3", {NO_PHOTO: 1}),
        (named("{docs,photos}/{0..2}.jpg"), "docs 3, photos 3", {}),
        # a photo that was moved to the folder of its class, and keeps its name
        (named("cats/cat.{1..59}.jpg", "dogs/dog.{1..59}.jpg", "dogs/cat.0.jpg"), "cats 59, dogs 60", {}),
        (named("cats/cat.{0..59}.jpg", "cats/dog.{0..3}.jpg", "dogs/dog.{4..59}.jpg"), "cats 64, dogs 56", {}),
        (named("train/dog.{0..2}.jpg", "train/cat.{3..99}.jpg"), "Cat 97, Dog 3", {}),
        # splits as Kaggle packs them, and classes that are called like splits
        (named("{training_set/training,test_set/test}_set/{cats,dogs}/{0..2}.jpg"), "cats 6, dogs 6; test 6, train 6", {}),
        (
            named("{seg_train/seg_train,seg_test/seg_test}/{ice,sea}/{0..2}.jpg", "seg_pred/seg_pred/{0..2}.jpg"),
            "ice 6, sea 6; test 6, train 6",
            {NO_CLASS: 3},
        ),
        (named("train/{cats,dogs}/{0..2}.jpg", "test/{0..2}.jpg"), "cats 3, dogs 3", {UNLABELLED: 3}),
        (named("train/{cats,dogs}/{0..2}.jpg", "test/unknown/{0..2}.jpg"), "cats 3, dogs 3", {UNLABELLED: 3}),
        (named("train/train/{cat,dog}.{0..2}.jpg", "test1/test1/{0..2}.jpg"), "Cat 3, Dog 3", {UNLABELLED: 3}),
        (named("{bus,car,train}/{0..2}.jpg"), "bus 3, car 3, train 3", {}),
        (named("{bus,car,train/2023,train/2024}/{0..2}.jpg"), "bus 3, car 3, train 6", {}),
        # splits below the classes, but not where a photo lies in none
        (
            named("x/{a/train,a/test,b/train,b/Test}/{0..2}.jpg", "docs/{0..2}.jpg"),
            "a 6, b 6; test 6, train 6",
            {STRAY: 3},
        ),
        (named("{a,b}/{train,test}/{0..2}.jpg", "b/more/{0..2}.jpg"), "a 6, b 9", {}),
        # masks
        (
            named("{a,b}/images/{0..2}.jpg", "{a/masks,b/lung masks,b/infection masks}/{0..2}.jpg"),
            "a 3, b 3",
            {"in a folder of masks": 9},
        ),
        (named("{a/masks,a/no masks,b/masks}/{0..2}.jpg"), "a 6, b 3", {}),
        # lists of labels
        (
            named("x/{train,test}/all/{0..2}.jpg", "x/{train,test}/labels.csv", labels=BREEDS),
            "husky 2, pug 4; test 3, train 3",
            {NO_PHOTO: 2},
        ),
        (
            named("{train,test}/{0..2}.jpg", "{train/train,test/test,x/labels}.csv", train=BREEDS, test=BREEDS, labels=NONE),
            "husky 2, pug 4; test 3, train 3",
            {NO_PHOTO: 3},
        ),
        (
            named("a/{b,c}/{0..8}.jpg", "a/x/labels.csv", labels=b"path,label\nb/0.jpg,x\nb/1.jpg,y\nc/2.jpg,y"),
            "x 1, y 2",
            {NO_PHOTO: 1, "no label in labels.csv": 15},
        ),
        (named("0/{0..4}.jpg", "1/{5..9}.jpg", "labels.csv", labels=b"id,label\n0,a\n1,b\n"), "0 5, 1 5", {NO_PHOTO: 1}),
        (
            named("{cats,dogs}/{0..49}.jpg", "samples/{0..2}.jpg", "samples/labels.csv", labels=BREEDS),
            "cats 50, dogs 50",
            {STRAY: 3, NO_PHOTO: 1},
        ),
        (
            {**TWO, **{f"{of}/labels.csv": b"id,label\n0,%b" % of.encode() for of in ("cats", "dogs")}},
            "cats 3, dogs 3",
            {NO_PHOTO: 2},
        ),
        (
            named("A.JPG", "é.jpg", "b.jpg", "B.png", "labels.csv", labels=OTHER_CASE.encode()),
            "x 2, y 1; train 2, val 1",
            {NO_PHOTO: 1, "no label in labels.csv": 1},
        ),
        (
            named("{train,test}/{0..2}.jpg", "labels.csv", labels=BREEDS),
            "husky 1, pug 2",
            {NO_PHOTO: 1, "no label in labels.csv": 3},
        ),
        (named("a/b/{0..3}.jpg", "a/train.csv", train=BREEDS), "husky 1, pug 2", {NO_PHOTO: 1, "no label in train.csv": 1}),
        (named("p/{0..3}.jpg", "{train,val}.csv", **SPLIT_LISTS), "a 2, b 2; train 2, val 2", {NO_PHOTO: 2}),
        (named("./{0..2}.jpg", "labels.csv", labels=OF_SPLITS), "a 2, b 1; test 1, train 2", {NO_PHOTO: 1}),
        ({**TWO, "labels.csv": b"id,label\n0,cat\n1,dog\n"}, "cats 3, dogs 3", {NO_PHOTO: 1}),  # names of classes
        ({**TWO, "test.csv": b"colour,mood\n" + 9000 * b"red,fine\n" + b"\xe9"}, "cats 3, dogs 3", {NO_PHOTO: 1}),
        (
            named("p/{0..2}.jpg", "{labels,label}.csv", **TWO_LISTS),
            "a 1, b 1; train 1",
            {NO_PHOTO: 2, "no label in label.csv and labels.csv": 1},
        ),
        (
            named("p/{0..2}.jpg", "{labels,splits}.csv", labels=b"id,label\n0,a\n1,b\n2,b", splits=P_SPLITS),
            "a 1, b 2; test 1, train 2",
            {NO_PHOTO: 2},
        ),
        (
            named("x/{train,test}/{0,1}.jpg", "x/annotations/labels.csv", labels=TRAIN_AND_TEST),
            "a 2, b 2; test 2, train 2",
            {NO_PHOTO: 1},
        ),
        (
            named("{bus,train}/0.jpg", "labels.csv", labels=b"path,label\nbus/0.jpg,a\ntrain/0.jpg,b"),
            "a 1, b 1",
            {NO_PHOTO: 1},
        ),
        # a list of test photos alone, the same list twice, classes that end in the words of splits, a folder named for masks
        (
            named("{train,test}/{cat,dog}/{0..3}.jpg", "test.csv", test=b"path,label\ntest/cat/0.jpg,cat\ntest/dog/0.jpg,dog"),
            "cat 8, dog 8; test 8, train 8",
            {NO_PHOTO: 1},
        ),
        (
            named("images/{0..2}.jpg", "{images,notes}/labels.csv", labels=b"id,label\n0,a\n1,b\n2,b"),
            "a 1, b 2",
            {NO_PHOTO: 2},
        ),
        (named("{steam_train,blood_test,car}/{0..2}.jpg"), "blood_test 3, car 3, steam_train 3", {}),
        (named("face_mask/train/{on,off}/{0..2}.jpg", "face_mask/test/0.jpg"), "off 3, on 3", {UNLABELLED: 1}),
        # class names as they are written
        (named("{का,कि,age <5,age >5,C#,C+,😀}/{0..2}.jpg"), "C# 3, C+ 3, age <5 3, age >5 3, का 3, कि 3, 😀 3", {}),
    ],
)
def test_what_people_have(tmp_path: Path, files: dict[str, bytes], found: str, left_out: dict[str, int]) -> None:
    """`found` is the number of photos by class; by split."""
    unpacked, (classes, _, splits) = unpack_photos(pack("folder", files, tmp_path), tmp_path / "raw"), found.partition("; ")
    assert ", ".join(f"{name} {count}" for name, count in unpacked.classes.items()) == classes
    assert ", ".join(f"{name} {count}" for name, count in unpacked.splits.items()) == splits
    assert Counter(unpacked.left_out.values()) == left_out
    assert sum(unpacked.classes.values()) + len(unpacked.left_out) == len(files)
    listed = (tmp_path / "raw/splits.csv").read_text().splitlines()[1:] if splits else []
    assert len(listed) == sum(unpacked.splits.values())


def test_classes_that_hold_the_same_folders_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for names, told in (("mild non", True), ("mild", False), ("train test", False)):
        files = named(*(f"{{AugmentedX,OriginalX}}/{name}/{{0..2}}.jpg" for name in names.split()))
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
    pack("folder", named("lynx/{0..3}.jpg"), tmp_path / "store")
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
LISTED = named("PetImages/{Cat,Dog}/{0,1}.jpg")


def labels(table: bytes) -> dict[str, bytes]:
    return named("train/{0..2}.jpg", "labels.csv", labels=table)


def splits(table: bytes) -> dict[str, bytes]:
    return {**LISTED, "splits.csv": table}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (named("{a,b}.jpg"), r"no photos in a known layout. It holds 'a.jpg', 'b.jpg'\. Known layouts: .*PetImages/Cat/0"),
        ({f"{i:02}.txt": b"" for i in range(99)}, r"holds '00.txt', '01.txt', .*'09.txt' and 89 more\."),
        ({}, "It holds no files"),
        (named("{c,d}/{0,1}.dng"), r"(?s)in a known layout.*Left out 4 \(camera RAW: export it as JPEG\)"),
        (named("PetImages/Cat/0.jpg"), r"one class only \(Cat\)"),
        (named("x/{Cat,Dog}/0.jpg", "x/Elk/"), "class folder 'x/Elk' is empty"),
        ({**SMALL, "PetImages/Elk/Thumbs.db": b"", "PetImages/Elk/.gitkeep": b""}, "class folder 'PetImages/Elk' is empty"),
        (named("{x,x/x}/{sick,well}/{0..2}.jpg"), "2 sets of photos, one beside 'x/x' and one in it: give it"),
        (
            named("a_train/a_train/{A,B}/{0..2}.jpg", "a_test/{0..2}.jpg"),
            "would have the classes a_test, a_train, but a_test, a_train are named for splits: give the one",
        ),
        (named("fruit-{train,test}-set/{a,b}/{0..2}.jpg"), "are named for splits"),
        (
            named("{train,test}/{c,d}/{0..2}.jpg", "unlabeled/{0..19}.jpg"),
            "classes test, train, unlabeled, but test, train are named",
        ),
        (named("{a,b}/x/{0..2}.jpg", "{a,b}/labels.csv", labels=BREEDS), "2 sets of photos, in 'a', 'b'"),
        ({**SMALL, "old/PetImages/Cat/1.jpg": b""}, r"2 sets of photos, in 'PetImages', 'old/PetImages'"),
        (named("{a,b}/{cat,dog}.0.jpg"), "2 sets of photos, in 'a', 'b'"),
        (named("{train,extra/train}/{c,d}/0.jpg"), "2 sets of photos"),
        (named("images/pug_1.jpg", "annotations/trimaps/pug_1.png"), "no photos in a known layout"),
        (named("photos/{a,b}.jpg", "docs/c.jpg"), r"(?s)\(photos\).*Left out 1 \(in a folder of documentation"),
        ({f"{name}/0.jpg": POINTER for name in "cd"}, "holds Git LFS pointers in place of 2 photos.*git lfs pull"),
        (labels(b"id,label\n0,cat\n1,dog\n8,dog\n9,dog"), r"labels.csv lists 2 photos that are not there: '8', '9'\."),
        (
            {**TWO, "labels.csv": b"path,label\nC:\\x\\cats\\0.jpg,a\nC:\\x\\dogs\\0.jpg,b"},
            r"lists 2 photos that are not there: .* Paths start at the folder of the list",
        ),
        (labels(b"id,label\n0,a\n0,b"), "lists '0' more than once, with several classes or splits"),
        (labels(b"id,label\n0,n/a\n1,b"), "the class 'n/a' cannot be the name of a folder"),
        (labels(b"id,label\n0,..\n1,b"), "the class '..' cannot be the name of a folder"),
        (labels(b"id,label,split\n0,a,spare"), "has '0' in the split 'spare': say train, val or test"),
        (labels(b"id,label\n0,Cat\n1,cat"), "'PetImages/Cat' and 'PetImages/cat' would be one"),
        (labels(b"id,label\n0,a\n1,a"), r"one class only \(a\)"),
        (
            named("{train,test,more}/{0,1}.jpg", "labels.csv", labels=TRAIN_AND_TEST + b"\nmore/0.jpg,a"),
            "'test/0.jpg', which lies in a folder of the split test, and 'more/0.jpg', which lies in none",
        ),
        ({**labels(b"id,label,split\n0,a,train\n1,b,test"), "splits.csv": b""}, "'splits.csv': the list of labels, or folders"),
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
        ("{name}/{label}/same.jpg", ("train", "val", "test"), "PetImages/{label}/{split}_same.jpg"),  # in all splits
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
    unpacked(tmp_path, named("{train,val}/{c,d}/0.jpg"))
    _, splits = unpacked(tmp_path, named("train/{c,d}/0.jpg"))
    assert splits == {}


@pytest.mark.parametrize(("folder", "name"), [("", "splits.csv"), ("PetImages/", "Splits.CSV")])
def test_a_list_of_splits(tmp_path: Path, folder: str, name: str) -> None:
    rows = [f"{path.removeprefix(folder)},{split},x" for path, split in zip(LISTED, ["train", "test"] * 2, strict=True)]
    table = "\ufeffpath,split,note\r\n" + "\r\n".join(rows)
    photos, splits = unpacked(tmp_path, {**LISTED, "PetImages/Cat/Thumbs.db": b"", folder + name: table.encode()})
    assert set(photos) == set(LISTED)
    assert splits == dict(zip(LISTED, ["train", "test"] * 2, strict=True))
