"""The manifest: a row for every downloaded file, also for the refused ones, and the fingerprints of the data.

manifest = read_manifest(Path("data/processed"))
manifest[manifest["status"] == "refused"][["path", "reason"]]
"""

import hashlib
from pathlib import Path

import pandas as pd

from pipeline.errors import PipelineError
from pipeline.files import read_json

MANIFEST_FILE = "manifest.csv"
SUMMARY_FILE = "summary.json"
INTEGERS = ("width", "height", "orientation", "bytes", "stored_width", "stored_height", "stored_bytes")


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


def read_stored_size(processed: Path) -> int:
    """The upper bound of the stored photos' shorter side, in pixels.

    Raises:
        PipelineError: there is no summary.json in `processed`.
    """
    return int(read_json(processed / SUMMARY_FILE)["stored_size"])


def classes_of(manifest: pd.DataFrame) -> tuple[str, ...]:
    """The names of the classes that photos were kept of, in alphabetical order, which is the order of the logits."""
    return tuple(sorted(manifest.loc[manifest["split"] != "", "class"].unique()))


def fingerprint(manifest: pd.DataFrame, split: str | None = None) -> str:
    """The SHA-256 of a split's data, or of all: id, SHA-256 of the published file, class and split of each photo."""
    kept = manifest[manifest["split"] != ""] if split is None else manifest[manifest["split"] == split]
    rows = kept[["id", "sha256", "class", "split"]].sort_values("id")
    return hashlib.sha256(rows.to_csv(index=False, header=False, lineterminator="\n").encode()).hexdigest()


def stored_fingerprint(manifest: pd.DataFrame) -> str:
    """The SHA-256 of how photos were stored: the size of each in pixels and bytes. It differs where `stored_size` did."""
    rows = manifest[["id", "stored_width", "stored_height", "stored_bytes"]].sort_values("id")
    return hashlib.sha256(rows.to_csv(index=False, header=False, lineterminator="\n").encode()).hexdigest()
