"""The manifest: a row for every downloaded file, also for the refused ones; its summary, and the fingerprints of the data."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import PipelineError
from pipeline.files import read_json, recover_folder

MANIFEST_FILE = "manifest.csv"
SUMMARY_FILE = "summary.json"
INTEGERS = ("width", "height", "orientation", "bytes", "stored_width", "stored_height", "stored_bytes")


def write_manifest(manifest: pd.DataFrame, processed: Path) -> None:
    """Write manifest.csv into `processed`, ordered by id."""
    manifest.sort_values("id").to_csv(processed / MANIFEST_FILE, index=False, lineterminator="\n")


def read_manifest(processed: Path) -> pd.DataFrame:
    """Read manifest.csv; every column is text but `INTEGERS`. A PipelineError says that there is none, or that it is broken."""
    recover_folder(processed)
    path = processed / MANIFEST_FILE
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False).astype(dict.fromkeys(INTEGERS, "int64"))
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise PipelineError(f"{path} cannot be used ({error}). Make it again with: dvc repro preprocess") from None


def summary(manifest: pd.DataFrame, stored_size: int) -> dict[str, Any]:
    """Counts of a manifest with groups and splits, ready for JSON.

    `refused` and `repaired` count files by reason; `exact_groups` and `near_groups` are those with equal pixels and those with
    like ones, which may be the same group; `mixed_groups` are kept though they hold several classes; `shorter_side` is in
    pixels of the published photos.
    """
    placed = manifest[manifest["split"] != ""]
    refused = manifest.loc[manifest["status"] == "refused", "reason"]
    repaired = manifest.loc[manifest["status"] == "repaired", "reason"].str.split("; ").explode()
    pictures = manifest[manifest["group"] != ""].groupby("group")["pixel_hash"].agg(["size", "nunique"])
    shared = pictures[pictures["size"] > 1]
    sides = placed[["width", "height"]].min(axis=1)
    photos = pd.crosstab(placed["class"], placed["split"]).reindex(columns=["train", "val", "test"], fill_value=0)
    return {
        "files": len(manifest),
        "status": manifest["status"].value_counts().sort_index().to_dict(),
        "photos": photos.to_dict(),
        "refused": _by_reason(refused),
        "repaired": _by_reason(repaired),
        "duplicates": {
            "groups": len(shared),
            "exact_groups": int((shared["size"] > shared["nunique"]).sum()),
            "near_groups": int((shared["nunique"] > 1).sum()),
            "mixed_groups": int((placed.groupby("group")["class"].nunique() > 1).sum()),
            "photos": int(shared["size"].sum()),
            "contradicting": int(refused.str.startswith("label contradicts").sum()),
            "across_splits": int(refused.str.startswith("duplicate of").sum()),
        },
        "shorter_side": {"min": int(sides.min()), "median": float(sides.median()), "max": int(sides.max())},
        "stored_size": stored_size,
        "stored_bytes": int(placed["stored_bytes"].sum()),
    }


def _by_reason(reasons: pd.Series) -> dict[str, int]:
    """Counts by reason, the most frequent first; what follows a colon is a detail."""
    return dict(Counter(reason.split(": ")[0] for reason in reasons.sort_values()).most_common())


def read_stored_size(processed: Path) -> int:
    """The upper bound of the stored photos' shorter side, in pixels."""
    return int(read_json(processed / SUMMARY_FILE)["stored_size"])


def classes_of(manifest: pd.DataFrame) -> tuple[str, ...]:
    """The names of the classes that photos were kept of, sorted, which is the order of the logits."""
    return tuple(sorted(manifest.loc[manifest["split"] != "", "class"].unique()))


def fingerprint(manifest: pd.DataFrame, split: str | None = None) -> str:
    """The SHA-256 of a split's data, or of all: id, SHA-256 of the published file, class and split of each photo."""
    kept = manifest[manifest["split"] != ""] if split is None else manifest[manifest["split"] == split]
    return _sha256(kept[["id", "sha256", "class", "split"]])


def stored_fingerprint(manifest: pd.DataFrame) -> str:
    """The SHA-256 of the photos as they are stored."""
    return _sha256(manifest[["id", "stored_sha256"]])


def _sha256(rows: pd.DataFrame) -> str:
    text = rows.sort_values("id").to_csv(index=False, header=False, lineterminator="\n")
    return hashlib.sha256(text.encode()).hexdigest()
