"""Duplicates: exact and near ones share a group, other photos do not, and equal pictures with several labels are left out."""

import hashlib
import io
import time
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.preprocess import duplicates
from pipeline.preprocess.duplicates import MAX_HAMMING_DISTANCE, MAX_MEAN_DIFFERENCE, group_duplicates, leaders
from pipeline.preprocess.photo import THUMBNAIL_SIDE, pixel_hash, thumbnail
from tests.preprocess.audits import encoded, picture
from tests.refusals import refused

Photos = dict[str, Image.Image]


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, quality=quality))).convert("RGB")


def manifest_of(photos: Photos) -> pd.DataFrame:
    """The columns that grouping reads, of photos by id, such as cat.0; each is a file of its own."""
    table = pd.DataFrame({"id": list(photos)}).assign(status="kept", reason="")
    table["path"], table["class"] = "PetImages/" + table["id"], table["id"].str.split(".").str[0]
    table["sha256"] = [hashlib.sha256(b"%d" % number).hexdigest() for number in table.index]
    table["pixel_hash"] = [pixel_hash(image) for image in photos.values()]
    table["thumbnail"] = [thumbnail(image) for image in photos.values()]
    return table


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


def test_equal_pictures_with_several_labels_are_refused_and_alike_ones_are_kept(photos: Photos) -> None:
    photos |= {"dog.wrong": photos["cat.0"].copy(), "cat.again": photos["cat.0"].copy()}
    photos |= {"scratch.1": recompressed(photos["dog.1"], 60), "scratch.2": photos["cat.4"].resize((64, 48))}
    grouped = group_duplicates(manifest_of(photos)).set_index("id")
    refused = grouped[grouped["status"] == "refused"]
    assert refused["reason"].to_dict() == {
        "cat.0": "label contradicts its duplicate: dog.wrong",
        "cat.again": "label contradicts its duplicate: dog.wrong",
        "dog.wrong": "label contradicts its duplicate: cat.0",
    }
    assert refused["group"].nunique() == 1
    assert grouped.loc["dog.1", "group"] == grouped.loc["scratch.1", "group"]
    assert grouped.loc["cat.4", "group"] == grouped.loc["scratch.2", "group"]


def test_only_equal_pictures_are_grouped_where_near_ones_are_ignored(photos: Photos) -> None:
    photos |= {"cat.near": recompressed(photos["cat.0"], 40), "cat.equal": photos["cat.0"].copy()}
    grouped = group_duplicates(manifest_of(photos), near=False).set_index("id")["group"]
    assert grouped["cat.equal"] == grouped["cat.0"]
    assert grouped.nunique() == len(photos) - 1


@pytest.mark.parametrize(
    ("label", "number", "stops"), [("dog", 5, False), ("dog", 6, True), ("cat", 6, False), ("cat", 10, True)]
)
def test_a_group_of_more_than_a_tenth_of_a_class_stops(label: str, number: int, stops: bool) -> None:
    photos = {f"cat.{index}": picture(96, 72, index) for index in range(80)}
    photos |= {f"dog.{index}": picture(96, 72, 100 + index) for index in range(10)}
    photos |= {f"{label}.frame{index}": photos[f"{label}.0"].resize((80 + index, 60)) for index in range(1, number)}
    manifest = manifest_of(photos)
    twice = pd.concat([manifest, manifest.assign(id="x" + manifest["id"])], ignore_index=True)  # copies count once
    for table in (manifest, twice):
        if stops:
            refused(rf"^Class {label}: {number} of its \d+ .* set preprocess.duplicates to ignore", group_duplicates, table)
        else:
            assert group_duplicates(table)["group"].nunique() == 90
    assert (group_duplicates(twice, near=False)["status"] == "kept").all()


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


def test_each_follows_the_first_leader_that_it_looks_like() -> None:
    rng = np.random.default_rng(0)
    thumbnails = rng.integers(0, 256, (200, THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), dtype=np.uint8)
    for index in range(0, 200, 3):  # like another, more or less
        noise = rng.normal(0, rng.uniform(1, 12), thumbnails[0].shape)
        thumbnails[index] = (thumbnails[rng.integers(200)] + noise).clip(0, 255)
    hashes = duplicates.perceptual_hashes(thumbnails)
    distances = {(a, b): (int(hashes[a]) ^ int(hashes[b])).bit_count() for a, b in combinations(range(200), 2)}
    difference = {pair: np.abs(np.diff(thumbnails[list(pair)].astype(int), axis=0)).mean() for pair in distances}
    close = {pair for pair in distances if distances[pair] <= MAX_HAMMING_DISTANCE}
    alike = {pair for pair in distances if difference[pair] <= MAX_MEAN_DIFFERENCE}
    assert min(len(close & alike), len(close - alike)) > 2  # neither rule decides alone
    expected: list[int] = []
    for index in range(200):
        leading = [other for other in range(index) if expected[other] == other and (other, index) in close & alike]
        expected.append(min(leading, default=index))
    assert leaders(thumbnails).tolist() == expected


def test_a_slow_change_is_no_single_group() -> None:
    first, last = (np.asarray(picture(16, 16, seed)).astype(float) for seed in (0, 1))
    steps = np.linspace(0, 1, 200)[:, None, None, None]
    thumbnails = (first * (1 - steps) + last * steps).astype(np.uint8)
    leader = leaders(thumbnails)
    assert len(np.unique(leader)) > 5
    assert np.abs(thumbnails.astype(int) - thumbnails[leader]).mean(axis=(1, 2, 3)).max() <= MAX_MEAN_DIFFERENCE


def test_another_size_or_compression_changes_few_bits_of_a_hash() -> None:
    image = picture(200, 150, 0)
    copies = [image, recompressed(image.resize((160, 120), Image.Resampling.LANCZOS), 40), picture(200, 150, 1)]
    small = b"".join(thumbnail(copy) for copy in copies)
    hashes = duplicates.perceptual_hashes(np.frombuffer(small, np.uint8).reshape(3, THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3))
    assert np.bitwise_count(hashes[0] ^ hashes[1]) <= 4
    assert np.bitwise_count(hashes[0] ^ hashes[2]) > 12


@pytest.mark.parametrize("kind", ["all different", "one camera", "one colour each"])
def test_many_photos_take_seconds(kind: str) -> None:
    rng = np.random.default_rng(0)
    thumbnails = {
        "all different": lambda: rng.integers(0, 256, (20_000, THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), dtype=np.uint8),
        "one camera": lambda: np.asarray(picture(16, 16)) // 2 + rng.integers(0, 9, (8000, 16, 16, 3), dtype=np.uint8),
        "one colour each": lambda: np.tile(rng.integers(0, 256, (8000, 1, 1, 3), dtype=np.uint8), (1, 16, 16, 1)),
    }[kind]()
    started = time.process_time()
    leaders(thumbnails)
    assert time.process_time() - started < 10
