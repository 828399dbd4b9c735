"""The split into train, val and test: stratified by class, by groups of duplicates, and stable.

Within a class, every photo has a place between 0 and 1: a hash of the seed and the SHA-256 of its published file. In the order
of these places the class is divided at the quantiles that the fractions ask for, and a group goes where the photo that gives it
its name lies. So the split depends on neither names nor order nor decoder. Where photos are added, a quantile, and with it
few of the old photos, moves; where a decoder finds a near duplicate more or less, that group moves and no other.

Groups make a class deviate from its fractions. Where a split would be off by more than the size of the class's largest group,
the division is shifted by as few groups as bring it within that. The class with the fewest photos (of equal ones the first by
name) is divided first, and what it shares a group with goes along: a larger class makes up for that with its other groups, as
far as they last.

Where photos come with splits (RAW/splits.csv, written by download), those hold. A split that is missing there is drawn out of
their training photos, and of duplicates in several splits the one in test stays, before val, before train.
"""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from pipeline.errors import PipelineError

SPLITS = ("train", "val", "test")
KEPT_FIRST = ("test", "val", "train")  # of duplicates: what is reported must not shrink because of what is learnt from


def read_splits(raw: Path) -> dict[str, str]:
    """Path below `raw` -> split, from the splits.csv that download wrote; empty where the photos come without splits."""
    file = raw / "splits.csv"
    if not file.exists():
        return {}
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    return dict(zip(table["path"], table["split"], strict=True))


def mle_bench_splits(manifest: pd.DataFrame) -> dict[str, str]:
    """Path -> "test" or "train", as MLE-bench divides the 25,000 published photos (Chan et al., MLE-bench, 2024).

    Its test split is a tenth of all their names, whichever of them are at hand; PetImages/Cat/7.jpg is its cat.7.jpg. A
    PipelineError says that a photo is none of the published ones.
    """
    published = sorted(f"{name}.{number}.jpg" for name in ("cat", "dog") for number in range(12_500))
    test = set(train_test_split(published, test_size=0.1, random_state=0)[1])
    usable = manifest[manifest["status"] != "refused"]  # beside the photos there is a Thumbs.db in each folder
    names = usable["id"].str.lower() + ".jpg"
    if len(others := usable["path"][~names.isin(published)]):
        raise PipelineError(
            f"preprocess.benchmark = mle-bench divides the published photos of cats and dogs, and {others.min()} is none of "
            "them. Set it to null."
        )
    return dict(zip(usable["path"], np.where(names.isin(test), "test", "train").tolist(), strict=True))


def assign_splits(
    manifest: pd.DataFrame, fractions: Mapping[str, float], seed: int, predefined: Mapping[str, str] | None = None
) -> pd.Series:
    """The split of each row of a manifest with groups: "train", "val" or "test", and "" for the refused.

    Of every class each split gets its fraction of the photos (above 0, they sum to 1), within the size of the class's largest
    group, and at least one photo. Only groups of several classes may make a class deviate further. `predefined` has the split
    of each path where the photos come with splits. A PipelineError says that a class has too few different photos, or too few
    of its own; or the predefined splits lack train, a class or a photo.
    """
    usable = manifest[manifest["status"] != "refused"]
    given = _given(usable, predefined) if predefined else pd.Series("train", index=usable.index)
    missing = [split for split in SPLITS[1:] if split not in set(given)]
    drawn = {split: fractions[split] for split in ("train", *missing)}
    _check_classes(manifest, given, drawn)
    free, placed = usable[given == "train"], dict[str, str]()
    for name in free["class"].value_counts().sort_index().sort_values(kind="stable").index:
        photos = free[free["class"] == name]
        placed |= _draw(photos, drawn, seed, placed)
        if lacking := set(drawn) - set(photos["group"].map(placed)):
            raise PipelineError(
                f"Class {name} has no photo for {', '.join(sorted(lacking))}: too many of its photos look like photos of other "
                "classes and share their split. Add photos of it, or set preprocess.duplicates to ignore."
            )
    splits = given.reindex(manifest.index, fill_value="").rename("split")
    splits[free.index] = free["group"].map(placed)
    return splits


def limit_splits(manifest: pd.DataFrame, most: Mapping[str, int], seed: int) -> pd.DataFrame:
    """Leave photos out of each split that is named, until it has at most so many: more only where a class would have none.

    Each class keeps the same fraction of its photos, in whole groups. A larger bound keeps every photo that a smaller one
    keeps, so scores by number of training photos are a learning curve. Photos left out have the status "left out" and no split.
    """
    result = manifest.copy()
    for split, bound in most.items():
        learning = manifest[manifest["split"] == split]
        kept, dropped = set[str](), set[str]()
        for _, photos in learning.groupby("class"):
            sizes = photos["group"].value_counts()
            ordered = sizes.iloc[np.argsort(_places(sizes.index, seed))]
            kept.add(ordered.index[0])
            dropped |= set(ordered.index[ordered.cumsum() > len(photos) * min(bound, len(learning)) / len(learning)])
        left = learning.index[learning["group"].isin(dropped - kept)]
        result.loc[left, ["split", "status"]] = ["", "left out"]
        result.loc[left, "reason"] = (result.loc[left, "reason"] + f"; preprocess.max_{split}").str.removeprefix("; ")
    return result


def refuse_copies_across(manifest: pd.DataFrame, predefined: Mapping[str, str]) -> pd.DataFrame:
    """Refuse the photos that have a duplicate in a better place, so that no group is both learnt from and scored on.

    A PipelineError says that a photo is in none of the predefined splits (path -> split).
    """
    usable = manifest[manifest["status"] != "refused"]
    places = _given(usable, predefined).map(KEPT_FIRST.index)
    best = places.groupby(usable["group"]).transform("min")
    kept = usable["id"].where(places == best).groupby(usable["group"]).transform("min")
    reasons = "duplicate of a photo in " + best.map(dict(enumerate(KEPT_FIRST))) + ": " + kept
    result, worse = manifest.copy(), places.index[places > best]
    result.loc[worse, "status"], result.loc[worse, "reason"] = "refused", reasons[worse]
    return result


def _given(usable: pd.DataFrame, predefined: Mapping[str, str]) -> pd.Series:
    """The predefined split of each usable row."""
    given = usable["path"].map(predefined)
    if given.isna().any():
        raise PipelineError(f"The splits that these photos come with leave out {usable['path'][given.isna()].min()}. List it.")
    return given.astype(str)


def _check_classes(manifest: pd.DataFrame, given: pd.Series, drawn: Collection[str]) -> None:
    """Every class must have a photo in each predefined split, and as many groups in train as there are splits to draw."""
    if len(given) and "train" not in set(given):
        raise PipelineError("The splits that these photos come with have no train: there is nothing to learn from.")
    for name, rows in manifest.groupby("class"):
        refused = rows.loc[rows["status"] == "refused", "reason"].str.split(": ").str[0].value_counts()
        why = "".join(f" {count:,} of its files were refused: {reason}." for reason, count in refused.items())
        splits = given.reindex(rows.index)
        if (groups := rows["group"][splits == "train"].nunique()) < len(drawn):
            raise PipelineError(
                f"Class {name} has {groups} different photos to share out (copies of a photo count once), and one each is "
                f"needed for {', '.join(drawn)}.{why} Add photos of it, or remove its folder from the source."
            )
        for split in set(given) - set(splits):
            raise PipelineError(
                f"The splits that these photos come with have no usable photo of class {name} in {split}.{why} Put some there, "
                f"or leave {split} out of the source: it is then drawn out of train."
            )


def _draw(photos: pd.DataFrame, fractions: Mapping[str, float], seed: int, placed: Mapping[str, str]) -> dict[str, str]:
    """Group -> split, of the groups of one class that are not placed yet; the fractions may sum to less than 1."""
    names, parts = list(fractions), np.array(list(fractions.values()))
    there = photos["group"].map(placed)
    photos_there = there.value_counts().reindex(names, fill_value=0).to_numpy()
    free = photos[there.isna()]
    if free.empty:
        return {}
    sizes = free["group"].value_counts()
    places = _places(sizes.index, seed)
    order = np.argsort(places)
    groups, places = sizes.index[order], places[order]
    before = np.concatenate([[0], np.cumsum(sizes.to_numpy()[order])])  # photos in the first i groups
    places_of_photos, largest = np.sort(_places(free["sha256"], seed)), sizes.max()
    split_of_group = np.zeros(len(groups), dtype=int)
    cut, excess, tolerance = 0, 0.0, largest / 2 + 0.5  # the half is for rounding
    for number, fraction in enumerate(np.cumsum(parts / parts.sum())[:-1], start=1):
        target = fraction * len(photos) - photos_there[:number].sum()
        cut_now = np.searchsorted(places, places_of_photos[int(np.clip(round(target), 0, len(free) - 1))])
        # Neither the photos before the cut nor those since the last one are off by more than they may be.
        lowest = np.searchsorted(before, target + max(-tolerance, excess - largest))
        highest = np.searchsorted(before, target + min(tolerance, excess + largest), side="right") - 1
        empty = photos_there == 0  # each of these splits gets a group
        least, most = cut + empty[number - 1], len(groups) - empty[number:].sum()
        cut = max(cut, int(np.clip(np.clip(cut_now, lowest, highest), least, most)))
        excess = before[cut] - target
        split_of_group[cut:] = number
    return dict(zip(groups, np.array(names)[split_of_group], strict=True))


def _places(hashes: pd.Series | pd.Index, seed: int) -> np.ndarray:
    digests = b"".join(hashlib.sha256(f"{seed}:{text}".encode()).digest()[:8] for text in hashes)
    return np.frombuffer(digests, ">u8").astype(np.uint64)
