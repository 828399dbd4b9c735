"""Which photo is learnt from, which one settings are chosen by, which one is reported on.

A group of duplicates goes where the hash of (seed, group) says. Nothing else has a say, so that the split depends on
neither the order nor the names nor the number of the photos: adding photos moves none of the old ones. (The exception
is a new near duplicate, which may give its group another name.)

The price is that the shares are met on average only. Of n groups a share p gets n·p, give or take sqrt(n·p·(1 - p)): of
12,500 photos of a class 15 % are 1,875 ± 40, of 800 they are 120 ± 10. Exact shares would need to know all photos at
once, and every new photo would then push old ones across.
"""

import hashlib
from collections.abc import Mapping

import pandas as pd

from pipeline.errors import PipelineError

SPLITS = ("train", "val", "test")


def assign_splits(manifest: pd.DataFrame, fractions: Mapping[str, float], seed: int) -> pd.Series:
    """The split of each row of a manifest with groups: "train", "val" or "test", and "" for the refused.

    Args:
        manifest: rows with the columns `status`, `class` and `group`.
        fractions: the share of each split; they sum to 1.
        seed: another seed, another split.

    Raises:
        PipelineError: the fractions are none, or a split lacks photos of a class.
    """
    if set(fractions) != set(SPLITS) or min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise PipelineError(f"The shares of train, val and test must be above 0 and sum to 1, not {dict(fractions)}.")
    usable = manifest["status"] != "refused"
    split_of = {group: _split(group, fractions, seed) for group in manifest["group"][usable].unique()}
    splits = manifest["group"].map(split_of).where(usable).fillna("").astype(str).rename("split")
    _check_filled(manifest["class"][usable], splits[usable])
    return splits


def _split(group: str, fractions: Mapping[str, float], seed: int) -> str:
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    uniform = int.from_bytes(digest[:8], "big") / 2**64
    if uniform < fractions["train"]:
        return "train"
    return "val" if uniform < fractions["train"] + fractions["val"] else "test"


def _check_filled(classes: pd.Series, splits: pd.Series) -> None:
    counts = pd.crosstab(classes, splits).reindex(columns=list(SPLITS), fill_value=0)
    for split in SPLITS:
        for name in counts.index[counts[split] == 0]:
            raise PipelineError(
                f"No photo of class {name} fell into {split}: there are {counts.loc[name].sum():,} of that class. "
                f"Add photos, raise the share of {split}, or choose another seed."
            )
