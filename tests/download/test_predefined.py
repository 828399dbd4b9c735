"""Splits that photos come with: read from folders and lists, held to, and never crossed by a duplicate."""

from collections import defaultdict
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.download.archive import unpack_photos
from pipeline.download.predefined import parse_predefined, read_predefined, split_named, write_predefined
from pipeline.errors import PipelineError
from pipeline.preprocess.split import assign_splits, refuse_copies_across
from tests.download.packing import SOURCES, pack

FRACTIONS = {"train": 0.5, "val": 0.25, "test": 0.25}


def unpacked(tmp_path: Path, files: dict[str, bytes], kind: str = "zip") -> tuple[dict[str, bytes], dict[str, str]]:
    """What a source comes to: the files of data/raw, and their predefined splits."""
    raw = tmp_path / "raw"
    unpack_photos(pack(kind, files, tmp_path), raw)
    photos = {path.relative_to(raw).as_posix(): path.read_bytes() for path in raw.rglob("*") if path.is_file()}
    photos.pop("splits.csv", None)
    return photos, read_predefined(raw)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "validation", "TEST"), ("train", "dev", "testing")])
def test_folders(tmp_path: Path, kind: str, names: tuple[str, str, str]) -> None:
    files = {f"set/{name}/{label}/{label}{i}.jpg": b"%d" % i for i, name in enumerate(names) for label in ("cats", "dogs")}
    photos, splits = unpacked(tmp_path, files, kind)
    assert set(photos) == {f"PetImages/{label}/{label}{i}.jpg" for i in range(3) for label in ("cats", "dogs")}
    expected = dict(enumerate(("train", "val", "test")))
    assert splits == {f"PetImages/{label}/{label}{i}.jpg": expected[i] for i in range(3) for label in ("cats", "dogs")}


def test_names_that_several_splits_use_are_told_apart(tmp_path: Path) -> None:
    files = {f"{split}/{label}/0.jpg": f"{split} {label}".encode() for split in ("train", "test") for label in ("a", "b")}
    photos, splits = unpacked(tmp_path, files)
    assert photos == {f"PetImages/{n.split('/')[1]}/{n.split('/')[0]}_0.jpg": content for n, content in files.items()}
    assert {path: path.rsplit("/", 1)[1].split("_")[0] for path in photos} == splits


def test_flat_photos_in_folders(tmp_path: Path) -> None:
    files = {f"{split}/{label}.{i}.jpg": b"" for i, split in enumerate(("train", "validation")) for label in ("cat", "dog")}
    _, splits = unpacked(tmp_path, files)
    assert splits == {f"PetImages/{label}/{i}.jpg": ("train", "val")[i] for i in range(2) for label in ("Cat", "Dog")}


def test_published_photos_with_splits_inside(tmp_path: Path) -> None:
    files = {f"PetImages/{split}/{label}/{split}.jpg": b"" for split in ("train", "test") for label in ("Cat", "Dog")}
    _, splits = unpacked(tmp_path, files)
    assert splits["PetImages/Cat/test.jpg"] == "test"


LISTED = {f"PetImages/{label}/{i}.jpg": b"" for label in ("Cat", "Dog") for i in range(2)}


@pytest.mark.parametrize("folder", ["", "PetImages/"])
@pytest.mark.parametrize("name", ["splits.csv", "Splits.CSV"])
def test_a_list_beside_the_photos(tmp_path: Path, folder: str, name: str) -> None:
    rows = [f"{path.removeprefix(folder)},{split},x" for path, split in zip(LISTED, ["train", "test"] * 2, strict=True)]
    table = "\ufeffpath,split,note\r\n" + "\r\n".join(rows)
    photos, splits = unpacked(tmp_path, {**LISTED, "PetImages/Cat/Thumbs.db": b"", folder + name: table.encode()})
    assert "PetImages/Cat/Thumbs.db" in photos
    assert splits == dict(zip(LISTED, ["train", "test"] * 2, strict=True))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path\nPetImages/Cat/0.jpg", "needs the columns path and split, and has path"),
        ("", "needs the columns path and split, and has none"),
        ("path,split\nPetImages/Cat/0.jpg,holdout", "'PetImages/Cat/0.jpg' is in the split 'holdout': use train, val or test"),
        ("path,split\na,train\na,test", "lists 'a' twice"),
        ("path,split\nPetImages/Cat/9.jpg,train", "lists 1 files that are not there, such as 'PetImages/Cat/9.jpg'"),
        ("path,split\nPetImages/Cat/0.jpg,train", "does not list 3 photos, such as 'PetImages/Cat/1.jpg'"),
        (b"path,split\n\xff\xff,train", "not valid UTF-8"),
    ],
)
def test_a_list_that_does_not_fit(tmp_path: Path, table: str | bytes, message: str) -> None:
    content = table if isinstance(table, bytes) else table.encode()
    with pytest.raises(PipelineError, match=message):
        unpack_photos(pack("zip", {**LISTED, "splits.csv": content}, tmp_path), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("other", ["old", "extra/train", "train2"])
def test_other_folders_side_by_side_are_two_sets_as_before(tmp_path: Path, other: str) -> None:
    files = {f"{part}/{name}/0.jpg": b"" for part in ("train", other) for name in "cd"}
    with pytest.raises(PipelineError, match="holds 2 sets of photos"):
        unpack_photos(pack("zip", files, tmp_path), tmp_path / "raw")


def test_one_folder_called_train_is_no_split(tmp_path: Path) -> None:
    _, splits = unpacked(tmp_path, {f"train/{name}/0.jpg": b"" for name in "cd"})
    assert splits == {}


def test_unpacking_again_without_splits_leaves_none(tmp_path: Path) -> None:
    unpacked(tmp_path, {f"{split}/{name}/0.jpg": b"" for split in ("train", "val") for name in "cd"})
    (tmp_path / "more").mkdir()
    unpack_photos(pack("zip", LISTED, tmp_path / "more"), tmp_path / "raw")
    assert read_predefined(tmp_path / "raw") == {}


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), min_size=1),
        st.sampled_from(("train", "val", "test")),
    )
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, splits: dict[str, str]) -> None:
    folder = tmp_path_factory.mktemp("splits")
    write_predefined(folder, splits)
    assert read_predefined(folder) == splits


def test_names_of_splits() -> None:
    assert [split_named(name) for name in ("Train", " valid ", "TEST", "cats", "")] == ["train", "val", "test", "", ""]
    assert parse_predefined("split,path\nTraining,a", "x") == {"a": "train"}


# What preprocessing makes of them


def manifest_of(groups: list[str]) -> pd.DataFrame:
    """Row i has the i-th group, whose last character says the class."""
    ids = [f"photo.{index:03}" for index in range(len(groups))]
    table = pd.DataFrame({"id": ids, "path": [f"PetImages/{photo}" for photo in ids], "group": groups})
    return table.assign(**{"class": [group[-1] for group in groups], "status": "kept", "reason": ""})


BASE = [f"base{index}.{label}" for index in range(60) for label in "01"]
split_names = st.sampled_from(("train", "val", "test"))


@given(
    groups=st.lists(st.builds("{}.{}".format, st.integers(0, 12), st.sampled_from("01")), max_size=40),
    drawn=st.data(),
    present=st.sampled_from([("train", "val", "test"), ("train", "val"), ("train", "test"), ("train",)]),
)
@settings(deadline=None, max_examples=25)
def test_properties(groups: list[str], drawn: st.DataObject, present: tuple[str, ...]) -> None:
    manifest = manifest_of(groups + BASE)
    given_splits = [drawn.draw(st.sampled_from(present)) for _ in groups] + [
        present[i // 2 % len(present)] for i in range(len(BASE))
    ]
    predefined = dict(zip(manifest["path"], given_splits, strict=True))
    kept = refuse_copies_across(manifest, predefined)
    try:
        kept["split"] = assign_splits(kept, FRACTIONS, 0, predefined)
    except PipelineError:
        assume(False)
    best = {"test": 0, "val": 1, "train": 2}
    given_of, left_of, split_of = (defaultdict(set) for _ in range(3))
    for row in kept.itertuples():
        place = predefined[row.path]
        given_of[row.group].add(best[place])
        if row.status == "kept":
            left_of[row.group].add(best[place])
            split_of[row.group].add(row.split)
            assert row.split in ({place} if place != "train" else {"train"} | (set(FRACTIONS) - set(present)))
    assert left_of == {group: {min(places)} for group, places in given_of.items()}  # of every picture the best placed is left
    assert all(len(splits) == 1 for splits in split_of.values())
    refused = kept[kept["status"] == "refused"]
    assert refused["reason"].str.fullmatch(r"duplicate of a photo in (test|val): photo\.\d+").all()


def test_the_copy_in_the_better_place_stays() -> None:
    manifest = manifest_of(["same.0", "same.0", "same.0", "own.1"])
    splits = ["train", "test", "val", "train"]
    kept = refuse_copies_across(manifest, dict(zip(manifest["path"], splits, strict=True)))
    assert kept["status"].tolist() == ["refused", "kept", "refused", "kept"]
    assert kept["reason"].tolist() == [
        "duplicate of a photo in test: photo.001",
        "",
        "duplicate of a photo in test: photo.001",
        "",
    ]


def test_a_missing_split_is_drawn_in_proportion() -> None:
    manifest = manifest_of([f"{index}.{index % 2}" for index in range(6000)])
    manifest["class"] = ["a", "b"] * 3000
    predefined = {path: "test" if index % 7 == 0 else "train" for index, path in enumerate(manifest["path"])}
    counts = assign_splits(manifest, {"train": 0.6, "val": 0.2, "test": 0.2}, 0, predefined).value_counts()
    assert counts["test"] == 858
    assert abs(counts["val"] / (counts["val"] + counts["train"]) - 0.25) < 0.03


@pytest.mark.parametrize(
    ("splits", "message"),
    [(["val", "test"], "have no train"), (["train"], r"leave out \d+ of them, such as PetImages/photo.001")],
)
def test_splits_that_cannot_be_used(splits: list[str], message: str) -> None:
    manifest = manifest_of(BASE)
    predefined = {
        path: splits[index % len(splits)] for index, path in enumerate(manifest["path"]) if index < 1 or len(splits) > 1
    }
    with pytest.raises(PipelineError, match=message):
        assign_splits(manifest, FRACTIONS, 0, predefined)


def test_refused_files_need_no_split() -> None:
    manifest = manifest_of([*BASE, "broken.0"])
    manifest.loc[len(BASE), ["status", "group"]] = ["refused", ""]
    predefined = {path: ("train", "val", "test")[index // 2 % 3] for index, path in enumerate(manifest["path"][:-1])}
    kept = refuse_copies_across(manifest, predefined)
    assert assign_splits(kept, FRACTIONS, 0, predefined).tolist()[-1] == ""
