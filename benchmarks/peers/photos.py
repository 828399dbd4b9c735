"""The photos that all sides are given: the processed ones, or a sample of the training photos.

sampled = sample(Path("data/processed"), Path("runs/photos"), photos=1000, seed=0)
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.data.manifest import MANIFEST_FILE, read_manifest, write_manifest
from pipeline.errors import PipelineError
from pipeline.paths import METRICS


def chosen(manifest: pd.DataFrame, photos: int | None, seed: int) -> pd.DataFrame:
    """The manifest with about `photos` training photos, equally large a share of each class; others are in no split.

    Args:
        manifest: all rows.
        photos: how many training photos to keep; all where None or where there are no more.
        seed: decides which.
    """
    training = manifest[manifest["split"] == "train"].sort_values("id")
    if photos is None or photos >= len(training):
        return manifest
    generator = np.random.default_rng(seed)
    kept: set[str] = set()
    for _, rows in training.groupby("class"):
        count = round(photos * len(rows) / len(training))
        kept |= set(generator.choice(rows["id"].to_numpy(), count, replace=False))
    left_out = (manifest["split"] == "train") & ~manifest["id"].isin(kept)
    return manifest.assign(split=manifest["split"].mask(left_out, ""))


def sample(processed: Path, target: Path, *, photos: int | None, seed: int) -> pd.DataFrame:
    """Make `target` what `processed` is, with fewer training photos, which are links.

    Returns:
        The manifest of `target`.

    Raises:
        PipelineError: `processed` holds no manifest, or does not lie in a project as data/processed does.
    """
    if not (processed.resolve().parents[1] / METRICS / "preprocess.json").is_file():
        raise PipelineError(f"{processed} is not what the stages left. Make it with: dvc repro preprocess")
    manifest = chosen(read_manifest(processed), photos, seed)
    if (target / MANIFEST_FILE).is_file():
        return manifest
    placed = manifest[manifest["split"] != ""]
    for split, label, photo in zip(placed["split"], placed["class"], placed["id"], strict=True):
        name = Path("images", split, label, f"{photo}.jpg")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).unlink(missing_ok=True)
        os.link((processed / name).resolve(), target / name)
    shutil.copyfile(processed / "summary.json", target / "summary.json")
    # Of the stages that made the photos; the report of the evaluation shows them.
    shutil.copytree(processed.resolve().parents[1] / METRICS, target / "metrics", dirs_exist_ok=True)
    write_manifest(manifest, target)
    return manifest
