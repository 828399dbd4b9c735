"""Stored photos in their final folders, and the summary of what preprocessing found and did."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.preprocess.split import SPLITS


def place(manifest: pd.DataFrame, store: Path, images: Path) -> None:
    """Move the photos that have a split from `store`/class/ID.jpg to `images`/split/class/ID.jpg.

    Both folders must be on one file system: photos are renamed, not copied. What stays in the store was refused.
    """
    placed = manifest[manifest["split"] != ""]
    for split, label in placed[["split", "class"]].drop_duplicates().itertuples(index=False):
        (images / split / label).mkdir(parents=True, exist_ok=True)
    for split, label, photo in placed[["split", "class", "id"]].itertuples(index=False):
        os.replace(store / label / f"{photo}.jpg", images / split / label / f"{photo}.jpg")


def summary(manifest: pd.DataFrame, stored_size: int) -> dict[str, Any]:
    """Counts of a manifest with groups and splits, ready for JSON.

    `refused` and `repaired` count files by reason; `exact_groups` and `near_groups` are those with equal pixels and those with
    like ones, which may be the same group; `shorter_side` is in pixels of the published photos.
    """
    placed = manifest[manifest["split"] != ""]
    refused = manifest.loc[manifest["status"] == "refused", "reason"]
    repaired = manifest.loc[manifest["status"] == "repaired", "reason"].str.split("; ").explode()
    pictures = manifest[manifest["group"] != ""].groupby("group")["pixel_hash"].agg(["size", "nunique"])
    shared = pictures[pictures["size"] > 1]
    sides = placed[["width", "height"]].min(axis=1)
    counts = Counter(zip(placed["split"], placed["class"], strict=True))
    classes = sorted(placed["class"].unique())
    return {
        "files": len(manifest),
        "status": dict(sorted(Counter(manifest["status"]).items())),
        "photos": {split: {name: counts[split, name] for name in classes} for split in SPLITS},
        "refused": _by_reason(refused),
        "repaired": _by_reason(repaired),
        "duplicates": {
            "groups": len(shared),
            "exact_groups": int((shared["size"] > shared["nunique"]).sum()),
            "near_groups": int((shared["nunique"] > 1).sum()),
            "photos": int(shared["size"].sum()),
            "contradicting": int(refused.str.startswith("label contradicts").sum()),
            "across_splits": int(refused.str.startswith("duplicate of").sum()),
        },
        "shorter_side": {"min": int(sides.min()), "median": float(sides.median()), "max": int(sides.max())},
        "stored_size": stored_size,
        "stored_bytes": int(placed["stored_bytes"].sum()),
    }


def _by_reason(reasons: Iterable[str]) -> dict[str, int]:
    """Counts by reason, the most frequent first; what follows a colon is a detail."""
    counts = Counter(reason.split(": ")[0] for reason in reasons)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
