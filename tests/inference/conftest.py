"""A checkpoint to predict with, as the real stages make it."""

from pathlib import Path

import pytest

from pipeline.inference import Classifier
from pipeline.params import load_params
from pipeline.stages import download, preprocess, train_frozen_backbone
from tests.clones import clone, set_params


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone after the first three stages, on few drawn photos and the weights that the project ships.

    In float32, so that what is measured here agrees closely with what the stages measured, through another graph.
    """
    folder = clone(tmp_path_factory.mktemp("clones") / "inference")
    set_params(folder, {"download.drawn_photos": 160, "train_frozen_backbone.backend": "onnxruntime", "runtime.workers": 0})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = load_params()
        for stage in (download, preprocess, train_frozen_backbone):
            stage.run(params)
    return folder


@pytest.fixture(scope="session")
def checkpoint(project: Path) -> Path:
    return project / "outputs/frozen"


@pytest.fixture(scope="session")
def classifier(checkpoint: Path) -> Classifier:
    return Classifier.load(checkpoint)


@pytest.fixture(scope="session")
def photos(project: Path) -> list[Path]:
    """The validation photos, which the checkpoint's own numbers are of."""
    return sorted((project / "data/processed/images/val").rglob("*.jpg"))
