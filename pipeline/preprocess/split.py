"""Which photo is learnt from, which one settings are chosen by, which one is reported on.

A group of duplicates goes where the hash of (seed, group) says. Nothing else has a say, so that the split depends on
neither the order nor the names nor the number of the photos: adding photos moves none of the old ones. (The exception
is a new near duplicate, which may give its group another name.)

The price is that the shares are met on average only. Of n groups a share p gets n·p, give or take sqrt(n·p·(1 - p)): of
12,500 photos of a class 15 % are 1,875 ± 40, of 800 they are 120 ± 10. Exact shares would need to know all photos at
once, and every new photo would then push old ones across.

Where photos come with splits (pipeline.download.predefined), those hold. A split that is missing there is drawn out of their
training photos, and of duplicates in several splits the one in test stays, before val, before train.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

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


def assign_splits(
    manifest: pd.DataFrame, fractions: Mapping[str, float], seed: int, predefined: Mapping[str, str] | None = None
) -> pd.Series:
    """The split of each row of a manifest with groups: "train", "val" or "test", and "" for the refused.

    Args:
        manifest: rows with the columns `path`, `status`, `class` and `group`.
        fractions: the share of each split; they sum to 1.
        seed: another seed, another split.
        predefined: path -> split, where the photos come with splits. Those that are missing among them are drawn out of
            train, in the proportions of `fractions`.

    Raises:
        PipelineError: the fractions are none, a split lacks photos of a class, or the predefined splits have no train or
            leave photos out.
    """
    if set(fractions) != set(SPLITS) or min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise PipelineError(f"The shares of train, val and test must be above 0 and sum to 1, not {dict(fractions)}.")
    usable = manifest["status"] != "refused"
    if predefined:
        given = _given(manifest, predefined)
        fractions = _shares_of_train(set(given), fractions)
    else:
        given = pd.Series("train", index=manifest.index)  # all photos are there to be shared out
    drawn = pd.Series([_split(group, fractions, seed) for group in manifest["group"]], index=manifest.index)
    splits = given.where(given != "train", drawn).where(usable).fillna("").astype(str).rename("split")
    _check_filled(manifest["class"][usable], splits[usable])
    return splits


def refuse_copies_across(manifest: pd.DataFrame, predefined: Mapping[str, str]) -> pd.DataFrame:
    """Refuse the photos that have a duplicate in a better place, so that no picture is both learnt from and scored on.

    Args:
        manifest: rows with the columns `id`, `path`, `status`, `reason` and `group`.
        predefined: path -> split.

    Raises:
        PipelineError: a photo is in no split.
    """
    places = _given(manifest, predefined).map({split: place for place, split in enumerate(KEPT_FIRST)})
    best = places.groupby(manifest["group"]).transform("min")
    result = manifest.copy()
    for index in places.index[places > best]:
        twins = manifest[(manifest["group"] == manifest.loc[index, "group"]) & (places == best[index])]
        reason = f"duplicate of a photo in {KEPT_FIRST[int(best[index])]}: {twins['id'].min()}"
        result.loc[index, ["status", "reason"]] = ["refused", reason]
    return result


def _given(manifest: pd.DataFrame, predefined: Mapping[str, str]) -> pd.Series:
    """The predefined split of each usable row; missing for the refused."""
    given = manifest["path"].map(predefined).where(manifest["status"] != "refused")
    nowhere = manifest["path"][given.isna() & (manifest["status"] != "refused")]
    if len(nowhere):
        raise PipelineError(
            f"The splits that these photos come with leave out {len(nowhere):,} of them, such as {nowhere.min()}. List every "
            "photo, or take the list of splits away."
        )
    return given


def _shares_of_train(present: set[object], fractions: Mapping[str, float]) -> dict[str, float]:
    """How the predefined training photos are shared out: to train, and to what is not there."""
    if "train" not in present:
        raise PipelineError("The splits that these photos come with have no train: there is nothing to learn from.")
    shares = {split: fractions[split] for split in SPLITS if split == "train" or split not in present}
    return {split: share / sum(shares.values()) for split, share in shares.items()}


def _split(group: str, fractions: Mapping[str, float], seed: int) -> str:
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    uniform = int.from_bytes(digest[:8], "big") / 2**64
    shared = [split for split in SPLITS if split in fractions]
    reached = 0.0
    for split in shared[:-1]:
        reached += fractions[split]
        if uniform < reached:
            return split
    return shared[-1]


def _check_filled(classes: pd.Series, splits: pd.Series) -> None:
    counts = pd.crosstab(classes, splits).reindex(columns=list(SPLITS), fill_value=0)
    for split in SPLITS:
        for name in counts.index[counts[split] == 0]:
            raise PipelineError(
                f"No photo of class {name} fell into {split}: there are {counts.loc[name].sum():,} of that class. "
                f"Add photos, raise the share of {split}, or choose another seed."
            )
