"""Duplicates: exact and near ones share a group, other photos do not, and contradicting labels are left out."""

import hashlib
import io
import time
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.preprocess import duplicates as duplicates_module
from pipeline.preprocess.duplicates import (
    MAX_HAMMING_DISTANCE,
    MAX_MEAN_DIFFERENCE,
    close_pairs,
    group_duplicates,
    perceptual_hashes,
)
from pipeline.preprocess.photo import THUMBNAIL_SIDE, pixel_hash, thumbnail
from tests.preprocess.audits import picture

Photos = dict[str, Image.Image]


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def manifest_of(photos: Photos) -> pd.DataFrame:
    """The columns that grouping reads, of photos by id, such as cat.0; each is a file of its own."""
    rows = [
        {
            "id": photo,
            "class": photo.split(".")[0],
            "status": "kept",
            "reason": "",
            "sha256": hashlib.sha256(b"%d" % number).hexdigest(),
            "pixel_hash": pixel_hash(image),
            "thumbnail": thumbnail(image),
        }
        for number, (photo, image) in enumerate(photos.items())
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def photos() -> Photos:
    return {f"{label}.{index}": picture(96, 72, index) for index, label in enumerate(["cat", "dog"] * 10)}


def test_photos_of_different_things_have_groups_of_their_own(photos: Photos) -> None:
    manifest = manifest_of(photos)
    grouped = group_duplicates(manifest)
    assert grouped["group"].tolist() == manifest["sha256"].tolist()
    pd.testing.assert_frame_equal(grouped.drop(columns="group"), manifest.drop(columns="thumbnail"))


def test_exact_and_near_duplicates_share_a_group_named_by_their_smallest_file(photos: Photos) -> None:
    photos["cat.exact"] = photos["cat.0"].copy()
    photos["cat.resized"] = photos["cat.0"].resize((64, 48), Image.Resampling.LANCZOS)
    photos["cat.compressed"] = recompressed(photos["cat.0"], 40)
    grouped = group_duplicates(manifest_of(photos))
    family = grouped[grouped["id"].isin(["cat.0", "cat.exact", "cat.resized", "cat.compressed"])]
    assert family["pixel_hash"].nunique() == 3
    assert family["group"].unique().tolist() == [family["sha256"].min()]
    assert (grouped["status"] == "kept").all()
    assert grouped["group"].nunique() == 20


def test_contradicting_labels_are_refused_and_others_are_not(photos: Photos) -> None:
    photos |= {"dog.wrong": recompressed(photos["cat.0"], 60), "cat.again": photos["cat.0"].copy()}
    photos |= {"dog.right": recompressed(photos["dog.1"], 60)}
    grouped = group_duplicates(manifest_of(photos)).set_index("id")
    refused = grouped[grouped["status"] == "refused"]
    assert refused["reason"].to_dict() == {
        "cat.0": "label contradicts its duplicate: dog.wrong",
        "cat.again": "label contradicts its duplicate: dog.wrong",
        "dog.wrong": "label contradicts its duplicate: cat.0",
    }
    assert grouped.loc["dog.1", "group"] == grouped.loc["dog.right", "group"]


@pytest.mark.parametrize("refused", [1, 20])
def test_refused_rows_have_no_group(photos: Photos, refused: int) -> None:
    manifest = manifest_of(photos)
    blank = {"status": "refused", "reason": "empty file", "sha256": "", "pixel_hash": "", "thumbnail": b""}
    for index in range(refused):
        manifest.loc[index, list(blank)] = list(blank.values())
    grouped = group_duplicates(manifest)
    assert (grouped["group"] == "").sum() == refused
    assert (grouped["reason"] == "empty file").sum() == refused


def test_order_and_names_change_nothing(photos: Photos) -> None:
    photos["cat.copy"] = recompressed(photos["cat.2"], 50)
    manifest = manifest_of(photos)
    expected = group_duplicates(manifest).set_index("sha256")["group"]
    other = manifest.assign(id="x" + manifest["id"]).sample(frac=1, random_state=1)
    assert group_duplicates(other).set_index("sha256")["group"].to_dict() == expected.to_dict()


def test_pairs_are_those_with_close_hashes_and_thumbnails(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    thumbnails = rng.integers(0, 256, (200, THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), dtype=np.uint8)
    for index in range(0, 200, 3):  # like another, more or less
        noise = rng.normal(0, rng.uniform(1, 12), thumbnails[0].shape)
        thumbnails[index] = (thumbnails[rng.integers(200)] + noise).clip(0, 255)
    hashes = perceptual_hashes(thumbnails)
    distances = {(a, b): (int(hashes[a]) ^ int(hashes[b])).bit_count() for a, b in combinations(range(200), 2)}
    difference = {pair: np.abs(np.diff(thumbnails[list(pair)].astype(int), axis=0)).mean() for pair in distances}
    close = {pair for pair in distances if distances[pair] <= MAX_HAMMING_DISTANCE}
    alike = {pair for pair in distances if difference[pair] <= MAX_MEAN_DIFFERENCE}
    assert min(len(close & alike), len(close - alike)) > 2  # neither rule decides alone
    monkeypatch.setattr(duplicates_module, "DISTANCES_PER_BLOCK", 1400)
    assert sorted(map(tuple, close_pairs(thumbnails).tolist())) == sorted(close & alike)


def test_another_size_or_compression_changes_few_bits_of_a_hash() -> None:
    image = picture(200, 150, 0)
    copies = [image, recompressed(image.resize((160, 120), Image.Resampling.LANCZOS), 40), picture(200, 150, 1)]
    small = b"".join(thumbnail(copy) for copy in copies)
    hashes = perceptual_hashes(np.frombuffer(small, np.uint8).reshape(3, THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3))
    assert np.bitwise_count(hashes[0] ^ hashes[1]) <= 4
    assert np.bitwise_count(hashes[0] ^ hashes[2]) > 12


def test_25_000_photos_take_seconds() -> None:
    thumbnails = np.random.default_rng(0).integers(0, 256, (25_000, THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), dtype=np.uint8)
    started = time.process_time()
    close_pairs(thumbnails)
    assert time.process_time() - started < 15
