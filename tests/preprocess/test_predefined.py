"""Predefined splits in preprocessing: used as they are, and never crossed by a duplicate."""

from collections import defaultdict

import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.preprocess.split import assign_splits, refuse_copies_across

FRACTIONS = {"train": 0.5, "val": 0.25, "test": 0.25}


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
