"""The manifest: what is known of every file that was downloaded, a row each, also of the refused ones.

manifest = read_manifest(Path("data/processed"))
manifest[manifest["status"] == "refused"][["path", "reason"]]
"""

import hashlib
from pathlib import Path

import pandas as pd

from pipeline.errors import PipelineError

MANIFEST_FILE = "manifest.csv"
INTEGERS = ("width", "height", "orientation", "bytes", "stored_width", "stored_height", "stored_bytes", "doubt_lists")


def write_manifest(manifest: pd.DataFrame, processed: Path) -> None:
    """Write manifest.csv into `processed`, ordered by id."""
    manifest.sort_values("id").to_csv(processed / MANIFEST_FILE, index=False, lineterminator="\n")


def read_manifest(processed: Path) -> pd.DataFrame:
    """Read manifest.csv; every column is text but `INTEGERS`, which are 0 where unknown.

    Raises:
        PipelineError: there is none, or it is no manifest.
    """
    path = processed / MANIFEST_FILE
    try:
        manifest = pd.read_csv(path, dtype=str, keep_default_na=False)
        return manifest.astype(dict.fromkeys(INTEGERS, "int64"))
    except FileNotFoundError:
        raise PipelineError(f"There is no {path}. Make it with: dvc repro preprocess") from None
    except (ValueError, KeyError) as error:
        raise PipelineError(f"{path} is no manifest ({error}). Make it again with: dvc repro preprocess") from None


def classes_of(manifest: pd.DataFrame) -> tuple[str, ...]:
    """The names of the classes that photos were kept of, in alphabetical order, which is the order of the logits."""
    return tuple(sorted(manifest.loc[manifest["split"] != "", "class"].unique()))


def fingerprint(manifest: pd.DataFrame, split: str | None = None) -> str:
    """The sha256 of what is learnt from or scored on: id, pixels, class and split of each photo of a split, or of all."""
    kept = manifest[manifest["split"] != ""] if split is None else manifest[manifest["split"] == split]
    rows = kept[["id", "pixel_hash", "class", "split"]].sort_values("id")
    return hashlib.sha256(rows.to_csv(index=False, header=False, lineterminator="\n").encode()).hexdigest()


def stored_fingerprint(manifest: pd.DataFrame) -> str:
    """The sha256 of how the photos were stored: the size of each, in pixels and bytes. It differs where `stored_size` did."""
    rows = manifest[["id", "stored_width", "stored_height", "stored_bytes"]].sort_values("id")
    return hashlib.sha256(rows.to_csv(index=False, header=False, lineterminator="\n").encode()).hexdigest()
