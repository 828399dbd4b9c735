"""Placing photos, and summing up what preprocessing did."""

import json
from pathlib import Path

import pandas as pd
import pytest

from pipeline.preprocess.store import place, summary

COLUMNS = ["id", "class", "status", "reason", "width", "height", "stored_bytes", "pixel_hash", "group", "split"]
ROWS = [
    ["cat.0", "cat", "kept", "", 60, 40, 100, "p", "a", "train"],
    ["cat.1", "cat", "kept", "", 60, 50, 200, "p", "a", "train"],
    ["cat.2", "cat", "repaired", "CMYK converted; decoder warning: odd", 70, 90, 300, "q", "b", "val"],
    ["dog.0", "dog", "repaired", "CMYK converted", 80, 80, 400, "r", "c", "test"],
    ["dog.1", "dog", "refused", "truncated: here", 0, 0, 0, "", "", ""],
    ["dog.2", "dog", "refused", "truncated: there", 0, 0, 0, "", "", ""],
    ["dog.3", "dog", "refused", "label contradicts its duplicate: cat.3", 80, 80, 500, "s", "d", ""],
    ["cat.3", "cat", "refused", "label contradicts its duplicate: dog.3", 80, 80, 500, "t", "d", ""],
]


@pytest.fixture
def manifest() -> pd.DataFrame:
    return pd.DataFrame(ROWS, columns=COLUMNS)


def test_photos_with_a_split_are_moved_and_others_stay(manifest: pd.DataFrame, tmp_path: Path) -> None:
    store, images = tmp_path / "store", tmp_path / "images"
    for label, photo in manifest.loc[manifest["stored_bytes"] > 0, ["class", "id"]].itertuples(index=False):
        (store / label).mkdir(parents=True, exist_ok=True)
        (store / label / f"{photo}.jpg").write_text(photo)
    place(manifest, store, images)
    placed = {path.relative_to(images).as_posix(): path.read_text() for path in images.rglob("*.jpg")}
    assert placed == {
        "train/cat/cat.0.jpg": "cat.0",
        "train/cat/cat.1.jpg": "cat.1",
        "val/cat/cat.2.jpg": "cat.2",
        "test/dog/dog.0.jpg": "dog.0",
    }
    assert sorted(path.name for path in store.rglob("*.jpg")) == ["cat.3.jpg", "dog.3.jpg"]


def test_the_summary_counts_what_there_is(manifest: pd.DataFrame) -> None:
    assert json.loads(json.dumps(summary(manifest, 64))) == {
        "files": 8,
        "status": {"kept": 2, "refused": 4, "repaired": 2},
        "photos": {"train": {"cat": 2, "dog": 0}, "val": {"cat": 1, "dog": 0}, "test": {"cat": 0, "dog": 1}},
        "refused": {"label contradicts its duplicate": 2, "truncated": 2},
        "repaired": {"CMYK converted": 2, "decoder warning": 1},
        "duplicates": {
            "groups": 2,
            "exact_groups": 1,
            "near_groups": 1,
            "photos": 4,
            "contradicting": 2,
            "across_splits": 0,
        },
        "shorter_side": {"min": 40, "median": 60.0, "max": 80},
        "stored_size": 64,
        "stored_bytes": 1000,
    }
