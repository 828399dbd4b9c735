"""The preprocess stage: what it writes, of splits that photos come with, of duplicates, and by the backbone's size."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.data.manifest import fingerprint, read_manifest, read_stored_size
from pipeline.params import load_params
from pipeline.stages import preprocess as stage
from tests.clones import set_params
from tests.preprocess.audits import picture


def put(project: Path, name: str, image: Image.Image) -> None:
    path = project / "data/raw/PetImages" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "PNG")


@pytest.fixture
def photos(project: Path) -> Path:
    """The present folder, a project with 20 photos of either class, no two alike."""
    set_params(project, {"backbone.name": "test_resnet", "backbone.weights": "none"})
    for number in range(20):
        for label in ("Cat", "Dog"):
            put(project, f"{label}/{number}.jpg", picture(280, 260, 2 * number + (label == "Dog")))
    return project


def preprocess() -> pd.DataFrame:
    stage.run(load_params())
    manifest = read_manifest(Path("data/processed"))
    return manifest.set_axis(manifest["id"].to_list())


def sheet_of_duplicates(project: Path) -> np.ndarray:
    with Image.open(project / "outputs/plots/duplicates.png") as image:
        return np.asarray(image.convert("RGB"))


def test_splits_that_come_with_the_photos_hold_and_no_duplicate_is_in_two(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(photos, "Cat/copy.jpg", picture(280, 260, 0))  # of Cat/0
    put(photos, "Dog/wrong.jpg", picture(280, 260, 2))  # of Cat/1
    put(photos, "Dog/alike.jpg", picture(300, 280, 6))  # of Cat/3, nearly
    paths = sorted(path.relative_to(photos / "data/raw").as_posix() for path in (photos / "data/raw").rglob("*.jpg"))
    splits = {path: ("train", "train", "val", "test")[number % 4] for number, path in enumerate(paths)}
    splits |= {"PetImages/Cat/0.jpg": "train", "PetImages/Cat/copy.jpg": "test"}
    splits |= {"PetImages/Cat/3.jpg": "val", "PetImages/Dog/alike.jpg": "val"}
    rows = [f"{path},{split}" for path, split in splits.items()]
    (photos / "data/raw/splits.csv").write_text("\n".join(["path,split", *rows]))
    manifest = preprocess()
    usable = manifest[manifest["split"] != ""]
    assert (usable["split"] == usable["path"].map(splits)).all()
    assert manifest.loc["cat.0", "reason"] == "duplicate of a photo in test: cat.copy"
    assert set(manifest.index[manifest["status"] == "refused"]) == {"cat.0", "cat.1", "dog.wrong"}
    assert "1 photos with a duplicate in a better one are left out" in capsys.readouterr().out
    summary = json.loads((photos / "data/processed/summary.json").read_text())
    duplicates = {"groups": 3, "exact_groups": 2, "near_groups": 1, "mixed_groups": 1}
    assert summary["duplicates"] == duplicates | {"photos": 6, "contradicting": 2, "across_splits": 1}
    assert len(np.unique(sheet_of_duplicates(photos)[60:200, 20:700])) > 100  # four photos are shown


def test_bounds_leave_photos_out_of_train_and_val_and_none_out_of_test(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = preprocess()
    set_params(photos, {"preprocess.max_train": 28, "preprocess.max_val": 6})  # as many as there are
    assert preprocess().equals(whole)
    assert "left out" not in capsys.readouterr().out
    set_params(photos, {"preprocess.max_train": 10, "preprocess.max_val": 2})
    manifest = preprocess()
    assert "22 photos are left out by preprocess.max_train and preprocess.max_val" in capsys.readouterr().out
    assert manifest["split"].value_counts().to_dict() == {"": 22, "train": 10, "test": 6, "val": 2}
    assert manifest[manifest["split"] == "test"].equals(whole[whole["split"] == "test"])
    stored = {path.stem for path in (photos / "data/processed/images").rglob("*.jpg")}
    assert stored == set(manifest.index[manifest["split"] != ""])
    assert '"Cat, left out",11' in (photos / "outputs/plots/splits.csv").read_text()
    assert json.loads((photos / "data/processed/summary.json").read_text())["status"] == {"kept": 18, "left out": 22}


def test_another_backbone_is_stored_at_its_size_and_split_alike(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = preprocess()
    assert "photos are stored at 192 px" in capsys.readouterr().out
    assert read_stored_size(photos / "data/processed") == manifest["stored_height"].max() == 192
    assert {path.name for path in (photos / "data").iterdir()} == {"raw", "processed"}  # nothing else is left behind
    metrics = json.loads((photos / "outputs/metrics/preprocess.json").read_text())
    assert metrics == {"kept": 40, "refused": 0, "train": 28, "val": 6, "test": 6, "duplicate_groups": 0, "stored_size": 192}
    assert list(json.loads((photos / "outputs/seconds/preprocess.json").read_text())) == ["seconds"]
    assert (sheet_of_duplicates(photos)[48:] == 255).all()  # the title alone: there are none

    set_params(photos, {"backbone.name": "test_vit", "preprocess.stored_size": 100})
    other = preprocess()
    assert "warning: preprocess.stored_size is 100 px, but test_vit needs" in capsys.readouterr().out
    assert read_stored_size(photos / "data/processed") == 100
    assert fingerprint(other) == fingerprint(manifest)
    stored = sorted(path.stem for path in (photos / "data/processed/images/train/Cat").iterdir())
    assert stored == sorted(other.index[(other["split"] == "train") & (other["class"] == "Cat")])
