"""Splits: stratified, complete, by group, unmoved by order, names and decoder, and stable when photos are added."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.preprocess import photo as photo_module
from pipeline.preprocess.audit import find_tasks
from pipeline.preprocess.decode import Decoded, decode
from pipeline.preprocess.duplicates import group_duplicates
from pipeline.preprocess.photo import examine
from pipeline.preprocess.split import SPLITS, assign_splits, limit_splits, mle_bench_splits, refuse_copies_across
from tests.preprocess.audits import picture, save
from tests.refusals import refused

FRACTIONS = {"train": 0.5, "val": 0.2, "test": 0.3}
SIZES = st.lists(st.integers(1, 6), min_size=20, max_size=60)  # of a class's groups
SEEDS = st.integers(0, 2**40)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def manifest_of(classes: Mapping[str, list[int]], salt: str = "") -> pd.DataFrame:
    """A manifest with groups of the given sizes in each class."""
    rows = []
    for label, sizes in classes.items():
        for group, size in enumerate(sizes):
            hashes = [sha256(f"{salt}{label}.{group}.{member}") for member in range(size)]
            rows += [{"class": label, "sha256": own, "group": min(hashes)} for own in hashes]
    table = pd.DataFrame(rows).assign(status="kept", reason="")
    table["id"] = [f"photo.{number:04}" for number in range(len(table))]
    return table.assign(path="PetImages/" + table["id"])


@given(sizes=st.fixed_dictionaries({"cat": SIZES, "dog": SIZES}), seed=SEEDS)
@settings(max_examples=30)
def test_each_class_has_its_fractions_within_its_largest_group_whatever_the_order(
    sizes: dict[str, list[int]], seed: int
) -> None:
    manifest = manifest_of(sizes)
    splits = assign_splits(manifest, FRACTIONS, seed)
    assert splits.index.equals(manifest.index)
    assert (splits.groupby(manifest["group"]).nunique() == 1).all()
    for label, groups in sizes.items():
        counts = splits[manifest["class"] == label].value_counts()
        for split, fraction in FRACTIONS.items():
            assert abs(counts[split] - fraction * sum(groups)) <= max(groups) + 1e-6
    order = np.random.default_rng(seed).permutation(len(manifest))
    shuffled = manifest.iloc[order].assign(id="other", path="other")
    pd.testing.assert_series_equal(assign_splits(shuffled, FRACTIONS, seed), splits.iloc[order])


BOUNDS = st.tuples(st.integers(2, 99), st.integers(2, 99))


@given(sizes=st.fixed_dictionaries({"cat": SIZES, "dog": SIZES}), fewer=BOUNDS, further=BOUNDS, seed=SEEDS)
@settings(max_examples=30)
def test_what_a_smaller_bound_keeps_a_larger_one_keeps_too_in_whole_groups(
    sizes: dict[str, list[int]], fewer: tuple[int, int], further: tuple[int, int], seed: int
) -> None:
    manifest = manifest_of(sizes)
    whole = manifest.assign(split=assign_splits(manifest, FRACTIONS, seed))
    counts = whole.value_counts(["split", "class"])
    kept = []
    for train, val in (fewer, (fewer[0] + further[0], fewer[1] + further[1])):
        limited = limit_splits(whole, {"train": train, "val": val}, seed)
        out = limited["split"] == ""
        assert limited[~out].equals(whole[~out])
        assert set(limited.loc[out, "reason"]) <= {"preprocess.max_train", "preprocess.max_val"}
        assert (limited.groupby("group")["split"].nunique() == 1).all()
        left = limited[~out].value_counts(["split", "class"])
        for (split, label), count in counts.items():
            fraction = min({"train": train, "val": val, "test": 999}[split] / counts[split].sum(), 1)
            assert fraction * count - max(sizes[label]) < left[split, label] <= max(fraction * count, max(sizes[label]))
        kept.append(set(limited.index[~out]))
    assert kept[0] <= kept[1]


def test_a_group_of_two_classes_is_kept_or_left_out_whole_and_repairs_stay_told() -> None:
    manifest = manifest_of({"cat": [1] * 9, "dog": [1] * 9}).assign(split="train", status="repaired", reason="no EXIF")
    manifest.loc[manifest.index[9:12], "group"] = manifest["group"][:3].to_numpy()  # three dogs look like three cats
    for bound in range(1, 18):
        limited = limit_splits(manifest, {"train": bound}, seed=0)
        assert (limited.groupby("group")["split"].nunique() == 1).all()
        kept = limited[limited["split"] == "train"]
        assert set(kept["class"]) == {"cat", "dog"}
        assert len(kept) <= max(bound, 4)  # the first group of each class
        assert set(limited.loc[limited["split"] == "", "reason"]) == {"no EXIF; preprocess.max_train"}


@given(
    groups=st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(1, 3), min_size=1), min_size=20, max_size=80),
    seed=SEEDS,
)
@settings(max_examples=60)
def test_groups_of_several_classes_stay_together_and_the_smallest_class_has_its_fractions(
    groups: list[dict[str, int]], seed: int
) -> None:
    rows = [
        (label, f"{group}", sha256(f"{group}.{label}.{n}"))
        for group, sizes in enumerate(groups)
        for label in sizes
        for n in range(sizes[label])
    ]
    manifest = pd.DataFrame(rows, columns=["class", "group", "sha256"]).assign(status="kept", reason="", path="p")
    manifest["group"] = manifest.groupby("group")["sha256"].transform("min")
    assume(manifest.groupby("class")["group"].nunique().min() >= 15)
    splits = assign_splits(manifest, FRACTIONS, seed)
    assert (splits.groupby(manifest["group"]).nunique() == 1).all()
    sizes = manifest["class"].value_counts().sort_index()
    smallest = manifest["class"] == sizes.idxmin()
    counts = splits[smallest].value_counts()
    largest = manifest[smallest]["group"].value_counts().max()
    assert all(abs(counts[split] - fraction * sizes.min()) <= largest + 1e-6 for split, fraction in FRACTIONS.items())
    order = np.random.default_rng(seed).permutation(len(manifest))
    pd.testing.assert_series_equal(assign_splits(manifest.iloc[order], FRACTIONS, seed), splits.iloc[order])


def test_a_class_makes_up_for_what_goes_with_another() -> None:
    """Half of the larger class is alike photos of the smaller one, all of which happen to be learnt from."""
    small = manifest_of({"scratch": [1] * 30})
    alike = small[assign_splits(small, FRACTIONS, 0) == "train"].assign(**{"class": "ok"})
    alike["sha256"] = [sha256(text) for text in alike["sha256"]]
    manifest = pd.concat([small, alike, manifest_of({"ok": [1] * 45}, "own")], ignore_index=True)
    counts = pd.crosstab(manifest["class"], assign_splits(manifest, FRACTIONS, 0))
    assert counts.loc["ok", list(FRACTIONS)].tolist() == [30, 12, 18]


def test_a_class_without_a_photo_of_its_own_for_a_split_is_named() -> None:
    small = manifest_of({"a": [1] * 6})
    alike = small[assign_splits(small, FRACTIONS, 0) == "train"].assign(**{"class": "b"})
    manifest = pd.concat([small, alike, alike, alike], ignore_index=True)
    refused(r"Class b has no photo for test, val: .* preprocess.duplicates to ignore", assign_splits, manifest, FRACTIONS, 0)


@given(sizes=SIZES, added=st.lists(st.integers(1, 6), max_size=20), seed=SEEDS)
@settings(max_examples=40)
def test_few_photos_move_when_some_are_added(sizes: list[int], added: list[int], seed: int) -> None:
    manifest, more = manifest_of({"cat": sizes, "dog": [1] * 9}), manifest_of({"cat": added or [1]}, salt="new")
    before = assign_splits(manifest, FRACTIONS, seed)
    after = assign_splits(pd.concat([manifest, more], ignore_index=True), FRACTIONS, seed).head(len(manifest))
    moved = before != after
    assert not moved[manifest["class"] == "dog"].any()
    # At each of the two divisions: as many photos as were added, and one largest group.
    assert moved.sum() <= 2 * (len(more) + max(sizes + added))


@given(count=st.integers(30, 100), first=st.integers(0, 29), second=st.integers(0, 29), seed=SEEDS)
@settings(max_examples=40)
def test_a_pair_that_becomes_duplicates_moves_no_other_photo(count: int, first: int, second: int, seed: int) -> None:
    manifest = manifest_of({"cat": [1] * count, "dog": [1] * 9})
    before = assign_splits(manifest, FRACTIONS, seed)
    pair = [first, second]
    paired = manifest.copy()
    paired.loc[pair, "group"] = manifest.loc[pair, "sha256"].min()
    after = assign_splits(paired, FRACTIONS, seed)
    assert after[first] == after[second]
    assert (after == before).drop(pair).all()


@pytest.mark.parametrize("number", [3, 4, 7, 20])
def test_small_classes_have_photos_in_every_split(number: int) -> None:
    manifest = manifest_of({f"class{index}": [1] * number for index in range(10)} | {"large": [1] * 500, "copied": [40, 1, 1]})
    for seed in range(5):
        splits = assign_splits(manifest, {"train": 0.7, "val": 0.15, "test": 0.15}, seed)
        assert (pd.crosstab(manifest["class"], splits)[list(SPLITS)] > 0).all(axis=None)


def test_another_seed_is_another_split() -> None:
    manifest = manifest_of({"cat": [1] * 500, "dog": [1] * 500})
    same = assign_splits(manifest, FRACTIONS, 0) == assign_splits(manifest, FRACTIONS, 1)
    assert abs(same.mean() - 0.38) < 0.08  # 0.5² + 0.2² + 0.3²


def test_a_split_is_the_same_everywhere_and_always() -> None:
    splits = assign_splits(manifest_of({"cat": [1] * 30, "dog": [1] * 30}), FRACTIONS, 0)
    assert sha256("".join(splits)) == "fdad3f8c727a4a7e9f16f27ebdc98603f8946662a08ed09607cfb3a2822e6c38"


@pytest.mark.parametrize("groups", [[], [1], [5, 1]])
def test_a_class_with_too_few_photos_is_refused_by_name(groups: list[int]) -> None:
    manifest = manifest_of({"cat": [1] * 9, "hamster": [*groups, 1]})
    manifest.loc[manifest.index[-1], ["status", "reason", "group"]] = ["refused", "label contradicts its duplicate: cat.3", ""]
    count = rf"Class hamster has {len(groups)} different photos .* needed for train, val, test"
    message = f"{count}.* 1 of its files were refused: label contradicts its duplicate"
    refused(message, assign_splits, manifest, FRACTIONS, 0)


# Another decoder, and another stored size


def audited(raw: Path, store: Path, stored_size: int) -> pd.DataFrame:
    """What the audit makes, in this process."""
    for label in ("Cat", "Dog"):
        (store / label).mkdir(parents=True, exist_ok=True)
    grouped = group_duplicates(pd.DataFrame([examine(task) for task in find_tasks(raw, store, stored_size)]))
    return grouped.assign(split=assign_splits(grouped, FRACTIONS, 0)).set_index("id")


def test_neither_decoder_nor_stored_size_moves_a_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(40):
        for label in ("Cat", "Dog"):
            image = picture(300, 280, 2 * index + (label == "Dog"))
            save(tmp_path / f"raw/PetImages/{label}/{index}.jpg", image)
            if index % 4 == 0:
                save(tmp_path / f"raw/PetImages/{label}/copy{index}.jpg", image.resize((200, 187)), quality=50)
    small, large = (audited(tmp_path / "raw", tmp_path / f"{size}", size) for size in (128, 256))
    assert (small["stored_bytes"] != large["stored_bytes"]).all()

    def decoded_otherwise(data: bytes) -> Decoded:
        decoded = decode(data)
        return decoded._replace(image=Image.fromarray(np.asarray(decoded.image) ^ 1))

    monkeypatch.setattr(photo_module, "decode", decoded_otherwise)
    other = audited(tmp_path / "raw", tmp_path / "other", 256)
    assert (other["pixel_hash"] != large["pixel_hash"]).all()
    assert large["group"].nunique() == 80
    for manifest in (small, other):
        pd.testing.assert_frame_equal(manifest[["group", "split"]], large[["group", "split"]])


# Splits that come with the photos


@given(
    sizes=st.fixed_dictionaries({"cat": SIZES, "dog": SIZES}),
    present=st.sampled_from([("train", "val", "test"), ("train", "val"), ("train", "test"), ("train",)]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=10)
def test_predefined_splits_hold_and_no_group_is_in_two(
    sizes: dict[str, list[int]], present: tuple[str, ...], seed: int
) -> None:
    manifest = manifest_of(sizes)
    chosen = np.random.default_rng(seed).choice(present, len(manifest))
    chosen[manifest["class"].duplicated(keep=False).to_numpy() & (np.arange(len(manifest)) % 5 == 0)] = "train"
    predefined = dict(zip(manifest["path"], chosen, strict=True))
    kept = refuse_copies_across(manifest, predefined)
    usable = kept["status"] == "kept"
    assert (kept["reason"][~usable].str.fullmatch(r"duplicate of a photo in (test|val): photo\.\d+")).all()
    try:
        splits = assign_splits(kept, FRACTIONS, 0, predefined)
    except PipelineError:  # nothing of a class is left in a split
        assume(False)
    best = {"test": 0, "val": 1, "train": 2}
    for _, rows in kept.assign(split=splits, given=chosen).groupby("group"):
        left = rows[rows["status"] == "kept"]
        assert left["split"].nunique() == 1
        assert set(left["given"].map(best)) == {rows["given"].map(best).min()}  # the best placed copies are left
        for place, split in zip(left["given"], left["split"], strict=True):
            assert split in ({place} if place != "train" else {"train"} | (set(SPLITS) - set(present)))


def test_the_copy_in_the_better_place_stays() -> None:
    manifest = manifest_of({"cat": [3], "dog": [1]})
    kept = refuse_copies_across(manifest, dict(zip(manifest["path"], ["train", "test", "val", "train"], strict=True)))
    reason = "duplicate of a photo in test: photo.0001"
    assert kept["reason"].tolist() == [reason, "", reason, ""]


def test_a_missing_split_is_drawn_out_of_train_in_proportion() -> None:
    manifest = manifest_of({"a": [1] * 700, "b": [1] * 70})
    predefined = {path: "test" if number % 7 == 0 else "train" for number, path in enumerate(manifest["path"])}
    splits = assign_splits(manifest, {"train": 0.6, "val": 0.2, "test": 0.2}, 0, predefined)
    counts = pd.crosstab(manifest["class"], splits)
    assert counts.loc["a"].to_dict() == {"test": 100, "train": 450, "val": 150}
    assert counts.loc["b"].to_dict() == {"test": 10, "train": 45, "val": 15}


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["val", "test"], "have no train"),
        (["train", None], "leave out PetImages/photo.0001"),
        (["train"] * 8 + ["val"] * 10, "Class b has 0 different photos to share out .* needed for train, test"),
        (["train"] * 8 + ["val"] + ["train"] * 9, "no usable photo of class b in val.*or leave val out"),
    ],
)
def test_predefined_splits_that_cannot_be_used(splits: list[str | None], message: str) -> None:
    manifest = manifest_of({"a": [1] * 9, "b": [1] * 9})
    predefined = dict(zip(manifest["path"], splits * (18 // len(splits)), strict=True))
    refused(message, assign_splits, manifest, FRACTIONS, 0, {path: split for path, split in predefined.items() if split})


def test_refused_files_need_no_split() -> None:
    manifest = manifest_of({"a": [1] * 9, "b": [1] * 10})
    manifest.loc[18, ["status", "group"]] = ["refused", ""]
    predefined = {path: SPLITS[number % 3] for number, path in enumerate(manifest["path"][:-1])}
    kept = refuse_copies_across(manifest, predefined)
    assert assign_splits(kept, FRACTIONS, 0, predefined).tolist()[-1] == ""


def published(numbers: Mapping[str, list[int]]) -> pd.DataFrame:
    rows = [(f"{name.lower()}.{number}", f"PetImages/{name}/{number}.jpg") for name, some in numbers.items() for number in some]
    return pd.DataFrame(rows, columns=["id", "path"]).assign(status="kept")


def test_mle_benchs_test_photos_are_the_same_whichever_photos_are_at_hand() -> None:
    everything = published({"Cat": list(range(12_500)), "Dog": list(range(12_500))})
    whole = mle_bench_splits(everything)
    test = sorted(path for path, split in whole.items() if split == "test")
    assert len(test) == 2500
    # scikit-learn promises that a split by a seed stays the same: these are its first and last photos.
    assert (test[0], test[-1]) == ("PetImages/Cat/10012.jpg", "PetImages/Dog/9999.jpg")
    some = published({"Dog": [5, 12_499, 7, 4000], "Cat": list(range(0, 12_500, 7))})
    assert mle_bench_splits(some) == {path: whole[path] for path in some["path"]}
    thumbs = pd.DataFrame([{"id": "cat.Thumbs", "path": "PetImages/Cat/Thumbs.db", "status": "refused"}])
    assert mle_bench_splits(pd.concat([thumbs, some], ignore_index=True)) == mle_bench_splits(some)
    refused(r"PetImages/Bird/1\.jpg is none of them", mle_bench_splits, published({"Cat": [1], "Bird": [1]}))
