"""The preprocess stage: what it makes of doubtful labels, of splits that photos come with, and of duplicates."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.data.manifest import fingerprint, read_manifest
from pipeline.preprocess.doubts import read_ledger
from pipeline.preprocess.photo import HASH_SIDE, THUMBNAIL_SIDE, perceptual_hash
from tests.clones import ROOT, run, set_params


def photo_with_hash(text: str) -> Image.Image:
    """A picture with a perceptual hash: one whose frequencies stand above or below zero as the bits say."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8)).reshape(HASH_SIDE, HASH_SIDE)
    coefficients = np.zeros((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    coefficients[:HASH_SIDE, :HASH_SIDE] = np.where(bits, 90.0, -90.0)
    coefficients[0, 0] = THUMBNAIL_SIDE * 128  # which is the brightness
    grey = cv2.idct(coefficients).clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(grey).resize((64, 64), Image.Resampling.NEAREST).convert("RGB")


def other_photo(seed: int) -> Image.Image:
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((80, 60), Image.Resampling.BICUBIC)


def put(project: Path, name: str, image: Image.Image) -> None:
    path = project / "data/raw/PetImages" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "PNG")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with 40 photos of either class, no two alike."""
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    for number in range(40):
        for label in ("Cat", "Dog"):
            put(tmp_path, f"{label}/{20_000 + number}.jpg", other_photo(2 * number + (label == "Dog")))
    return tmp_path


def preprocess(project: Path) -> tuple[pd.DataFrame, str]:
    printed = run(project, "python", "-m", "pipeline", "preprocess", PYTHONPATH=str(ROOT)).stdout
    manifest = read_manifest(project / "data/processed")
    return manifest.set_axis(manifest["id"].to_list()), printed


def picture(project: Path) -> np.ndarray:
    with Image.open(project / "outputs/plots/duplicates.png") as image:
        return np.asarray(image.convert("RGB"))


def test_doubtful_photos_are_dropped_from_training_alone_and_only_when_asked(project: Path) -> None:
    ledger = read_ledger()
    known = ledger[ledger["perceptual_hash"] != ""].drop_duplicates(["perceptual_hash"]).set_index("id")
    for photo, row in known.iterrows():
        image = photo_with_hash(row["perceptual_hash"])
        assert (int(perceptual_hash(np.asarray(image)), 16) ^ int(row["perceptual_hash"], 16)).bit_count() <= 4
        put(project, f"{row['class'].capitalize()}/{str(photo).split('.')[1]}.jpg", image)
    kept, _ = preprocess(project)
    assert set(kept.index[kept["doubt"] != ""]) == set(known.index)
    assert (kept["status"] != "refused").all()

    set_params(project, {"preprocess.label_doubts": "drop"})
    dropped, printed = preprocess(project)
    gone = kept.index[(kept["doubt"] != "") & (kept["split"] == "train")]
    assert len(gone) > 5
    assert f"{len(known):,} photos have a doubtful label; {len(gone):,} are left out of training for it" in printed
    assert set(dropped.index[dropped["split"] == ""]) == set(gone)
    assert (dropped.loc[gone, "reason"].str.split(": ").str[0] == "label doubted").all()
    for split in ("val", "test"):
        assert fingerprint(dropped, split) == fingerprint(kept, split)
    assert not any((project / "data/processed/images/train").rglob(f"{gone[0]}.jpg"))


def test_splits_that_come_with_the_photos_hold_and_no_duplicate_crosses_them(project: Path) -> None:
    put(project, "Cat/copy.jpg", other_photo(0))  # of Cat/20000
    put(project, "Dog/wrong.jpg", other_photo(2))  # of Cat/20001
    paths = sorted(path.relative_to(project / "data/raw").as_posix() for path in (project / "data/raw").rglob("*.jpg"))
    splits = {path: ("train", "train", "val", "test")[number % 4] for number, path in enumerate(paths)}
    splits |= {"PetImages/Cat/20000.jpg": "train", "PetImages/Cat/copy.jpg": "test"}
    rows = [f"{path},{split}" for path, split in splits.items()]
    (project / "data/raw/splits.csv").write_text("\n".join(["path,split", *rows]))
    manifest, printed = preprocess(project)
    usable = manifest[manifest["split"] != ""]
    assert (usable["split"] == usable["path"].map(splits)).all()
    assert manifest.loc["cat.20000", "reason"] == "duplicate of a photo in test: cat.copy"
    assert set(manifest.index[manifest["status"] == "refused"]) == {"cat.20000", "cat.20001", "dog.wrong"}
    assert "1 photos with a duplicate in a better one are left out" in printed
    summary = json.loads((project / "data/processed/summary.json").read_text())
    assert summary["duplicates"] == {
        "groups": 2,
        "exact_groups": 2,
        "near_groups": 0,
        "photos": 4,
        "contradicting": 2,
        "across_splits": 1,
    }
    assert len(np.unique(picture(project)[60:200, 20:700])) > 100  # four photos stand there


def test_without_duplicates_the_picture_says_so(project: Path) -> None:
    preprocess(project)
    shown = picture(project)
    assert (shown[:48] < 128).any()  # the sentence
    assert (shown[48:] == 255).all()  # and nothing else
