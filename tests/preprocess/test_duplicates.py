"""Duplicates: exact and near ones share a group, other photos do not, and contradicting labels are left out."""

import io
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.data import duplicates as duplicates_module
from pipeline.preprocess.duplicates import MAX_HAMMING_DISTANCE, _close_pairs, _smallest_connected, group_duplicates
from pipeline.preprocess.photo import perceptual_hash, pixel_hash


def picture(seed: int, width: int = 96, height: int = 72) -> Image.Image:
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def manifest_of(store: Path, photos: dict[str, Image.Image]) -> pd.DataFrame:
    """Store photos by id, such as cat.0, and make the columns that grouping reads."""
    rows = []
    for photo, image in photos.items():
        label = photo.split(".")[0]
        (store / label).mkdir(parents=True, exist_ok=True)
        image.save(store / label / f"{photo}.jpg", quality=95, subsampling="4:4:4")
        rows.append([photo, label, "kept", "", pixel_hash(np.asarray(image)), perceptual_hash(np.asarray(image))])
    return pd.DataFrame(rows, columns=["id", "class", "status", "reason", "pixel_hash", "perceptual_hash"])


@pytest.fixture
def photos() -> dict[str, Image.Image]:
    return {f"{label}.{index}": picture(index) for index, label in enumerate(["cat", "dog"] * 10)}


def groups_of(grouped: pd.DataFrame) -> dict[str, str]:
    return dict(zip(grouped["id"], grouped["group"], strict=True))


def test_photos_of_different_things_have_groups_of_their_own(tmp_path: Path, photos: dict) -> None:
    manifest = manifest_of(tmp_path, photos)
    grouped = group_duplicates(manifest, tmp_path)
    assert grouped["group"].tolist() == manifest["pixel_hash"].tolist()
    pd.testing.assert_frame_equal(grouped.drop(columns="group"), manifest)


def test_exact_and_near_duplicates_share_a_group_that_stays(tmp_path: Path, photos: dict) -> None:
    photos["cat.exact"] = photos["cat.0"].copy()
    photos["cat.resized"] = photos["cat.0"].resize((64, 48), Image.Resampling.LANCZOS)
    photos["cat.compressed"] = recompressed(photos["cat.0"], 40)
    manifest = manifest_of(tmp_path, photos)
    grouped = group_duplicates(manifest, tmp_path)
    family = grouped[grouped["id"].isin(["cat.0", "cat.exact", "cat.resized", "cat.compressed"])]
    assert family["pixel_hash"].nunique() == 3
    assert family["group"].unique().tolist() == [family["pixel_hash"].min()]
    assert (grouped["status"] == "kept").all()
    assert grouped["group"].nunique() == 20


def test_contradicting_labels_are_refused_and_others_are_not(tmp_path: Path, photos: dict) -> None:
    photos |= {"dog.wrong": recompressed(photos["cat.0"], 60), "cat.again": photos["cat.0"].copy()}
    photos |= {"dog.right": recompressed(photos["dog.1"], 60)}
    grouped = group_duplicates(manifest_of(tmp_path, photos), tmp_path).set_index("id")
    refused = grouped[grouped["status"] == "refused"]
    assert refused["reason"].to_dict() == {
        "cat.0": "label contradicts its duplicate: dog.wrong",
        "cat.again": "label contradicts its duplicate: dog.wrong",
        "dog.wrong": "label contradicts its duplicate: cat.0",
    }
    assert grouped.loc["dog.1", "group"] == grouped.loc["dog.right", "group"]


def test_refused_rows_have_no_group_and_no_say(tmp_path: Path, photos: dict) -> None:
    manifest = manifest_of(tmp_path, photos)
    broken = {"id": "dog.x", "class": "dog", "status": "refused", "reason": "empty file"}
    manifest.loc[len(manifest)] = {**broken, "pixel_hash": "", "perceptual_hash": ""}
    grouped = group_duplicates(manifest, tmp_path).set_index("id")
    assert grouped.loc["dog.x", ["group", "reason"]].tolist() == ["", "empty file"]


def test_order_and_names_change_nothing(tmp_path: Path, photos: dict) -> None:
    photos["cat.copy"] = recompressed(photos["cat.2"], 50)
    manifest = manifest_of(tmp_path / "a", photos)
    expected = groups_of(group_duplicates(manifest, tmp_path / "a"))
    shuffled = manifest.sample(frac=1, random_state=1)
    assert groups_of(group_duplicates(shuffled, tmp_path / "a")) == expected
    renamed = {f"{photo}-new": image for photo, image in reversed(photos.items())}
    other = groups_of(group_duplicates(manifest_of(tmp_path / "b", renamed), tmp_path / "b"))
    assert {photo.removesuffix("-new"): group for photo, group in other.items()} == expected


def test_a_close_hash_alone_makes_no_duplicate(tmp_path: Path, photos: dict) -> None:
    manifest = manifest_of(tmp_path, photos)
    manifest["perceptual_hash"] = manifest["perceptual_hash"].iloc[0]
    assert group_duplicates(manifest, tmp_path)["group"].nunique() == len(photos)


def test_close_pairs_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 200, dtype=np.uint64)
    for index in range(0, 200, 3):  # flip up to ten bits of another hash
        bits = rng.choice(64, size=rng.integers(0, 11), replace=False)
        hashes[index] = hashes[rng.integers(200)] ^ np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64), initial=0)
    expected = [
        (first, second)
        for first, second in combinations(range(200), 2)
        if (int(hashes[first]) ^ int(hashes[second])).bit_count() <= MAX_HAMMING_DISTANCE
    ]
    assert len(expected) > 20
    monkeypatch.setattr(duplicates_module, "DISTANCES_PER_BLOCK", 1400)
    assert sorted(map(tuple, _close_pairs(hashes).tolist())) == expected


def test_25_000_photos_take_seconds() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**63, 25_000, dtype=np.uint64)
    started = time.process_time()
    _close_pairs(hashes)
    assert time.process_time() - started < 10


@given(pairs=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=25))
@settings(deadline=None)
def test_connected_photos_share_the_smallest_index(pairs: list[tuple[int, int]]) -> None:
    expected = list(range(20))
    for _ in range(20):
        for first, second in pairs:
            expected[first] = expected[second] = min(expected[first], expected[second])
    assert _smallest_connected(20, np.array(pairs, dtype=int).reshape(-1, 2)).tolist() == expected
